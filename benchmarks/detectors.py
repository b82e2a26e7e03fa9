"""Rejecting defenses under the attack that they are claimed against and under those that see the detector.

    python -m benchmarks.detectors

Each head attacks every image that is right and accepted when clean, by itself: `classifier` ignores the detector, the
others do not. Test images of digits, the shipped networks, linf 0.15.
"""

import math
import sys

import pandas as pd
import torch

from gauntlet.commands.calibration import Setting
from gauntlet.config.validate import build
from gauntlet.data.fitting import FittingImages
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.metrics.rejection import auroc
from gauntlet.models.layers import frozen
from gauntlet.threat_model.watched_forward import watched

DEFENSES = ("confidence", "feature_squeezing", "mahalanobis")
RECIPES = ("standard", "trades")
ATTACKS = {
    "pgd": {"_target_": "gauntlet.attacks.pgd.PGD"},
    "pma": {"_target_": "gauntlet.attacks.pma.PMA"},
}


def rows_of(defense: str, recipe: str, attack: str) -> tuple[pd.DataFrame, int]:
    """Return the records of every head on every image that is right when clean, and the number of images."""
    setting = Setting.of(defense, ["dataset=digits", f"recipe@defense.parts.model.recipe={recipe}"])
    models = setting.models()
    for module in models.values():
        frozen(module)
    victim = watched(setting.defense.fitted(models, FittingImages(setting.dataset, torch.device("cpu"))))
    split = setting.dataset.split("test")
    run = Evaluation(victim, (attack, build(ATTACKS[attack])), setting.threat, 10, coverage="correct", batch_size=512)
    return evaluate_chunk(run, split.read(slice(0, len(split)))).rows.to_pandas(), len(split)


def line(defense: str, recipe: str, attack: str) -> str:
    """Return one row of the table."""
    rows, count = rows_of(defense, recipe, attack)
    assert rows["error"].isna().all()
    clean = rows[rows["stage"] == "clean"]
    held = clean[~clean["broken"]]["sample"]
    left: dict[str, set[int]] = {}
    for stage, part in rows[rows["stage"] != "clean"].groupby("stage", sort=False):
        left[str(stage).rpartition("/")[2]] = set(held) - set(part[part["broken"]]["sample"])
    ignorant = rows[rows["stage"].str.endswith("/classifier") & (rows["pred"] != rows["label"])]
    caught = (ignorant["acceptance"] < 0).mean() if len(ignorant) else math.nan
    right = clean[clean["pred"] == clean["label"]]
    told = auroc(right["acceptance"].to_numpy(float), ignorant["acceptance"].to_numpy(float))
    others = " · ".join(f"{name} {len(ids) / count:.1%}" for name, ids in left.items() if name != "classifier")
    union = set.intersection(*left.values())
    seeing = set.intersection(*(ids for name, ids in left.items() if name != "classifier"))
    return (
        f"| `{defense}` | {recipe} | {attack} | {len(held) / count:.1%} | {told:.3f} | {caught:.1%} of {len(ignorant)} "
        f"| {len(left['classifier']) / count:.1%} | {others} | {len(seeing) / count:.1%} | {len(union) / count:.1%} |"
    )


def main() -> int:
    """Print the table."""
    columns = ("defense", "network", "attack", "clean", "AUROC", "rejected", "ignorant", "by head", "seeing it", "all")
    sys.stdout.write("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns) + "\n")
    for recipe in RECIPES:
        for defense in DEFENSES:
            for attack in ATTACKS:
                sys.stdout.write(line(defense, recipe, attack) + "\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

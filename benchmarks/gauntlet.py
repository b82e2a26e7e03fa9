"""Robust accuracy and cost of `gauntlet`, PMA, PMA+ and AutoAttack on networks of many kinds.

    python -m benchmarks.gauntlet run [--model NAME ...] [--attack NAME ...] [--seed N ...] [--samples 1000] [--first 0]
                                      [--knob attack.KEY=VALUE ...] [--threat NORM:EPS] [--out FOLDER]
    python -m benchmarks.gauntlet table

`run` goes on where it stopped: each (model, attack, seed) is a file below --out, written in one piece. `table` prints
what is there. The public networks are those of benchmarks.public. The others are built from weights below --trained,
which the commands in gauntlet.md made. K = F + 2 B of a survivor, a sample that is right and stays so.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.hidden import Rippled, Rounded, snapped, winners_take_all
from benchmarks.public import NETWORKS, images_of, network_of
from benchmarks.relatives import built
from benchmarks.saturation import Scaled
from gauntlet.data.digits import Digits
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.models import checkpoint
from gauntlet.models.batchnorm_folding import folded
from gauntlet.models.preact_resnet import PreActResNet
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

ATTACKS = ("gauntlet", "pma", "autoattack")
FOUR = Threat("linf", "4/255")


def weights(folder: Path, data: str, recipe: str) -> nn.Module:
    """A network trained on those data, by the name of its recipe."""
    kind, _ = recipe.split("-")
    network = SmallCNN(10, 3, 32) if kind == "smallcnn" else PreActResNet(10, 1, 18, 8, mean=(0.5,), std=(0.25,))
    (found,) = folder.glob(f"{data}-{recipe}-*/best.safetensors")
    checkpoint.load(network, found)
    return network.eval().requires_grad_(False)


def mean_sparse(network: nn.Module) -> nn.Module:
    return snapped(network, images_of("cifar10_jpeg", 0, 500, "train").x)


CIFAR = "cifar10_jpeg"
OTHERS: dict[str, tuple[str, str, Threat, Callable[[nn.Module], nn.Module]]] = {
    "trades": (CIFAR, "smallcnn-trades", FOUR, folded),
    "standard": (CIFAR, "smallcnn-standard", Threat("linf", "1/255"), folded),
    "l2": (CIFAR, "smallcnn-pgdat", Threat("l2", 0.5), folded),
    "batch norm resnet": ("digits", "preactresnet-pgdat", Threat("linf", 0.15), folded),
    "rounded pixels": (CIFAR, "smallcnn-trades", FOUR, Rounded),
    "rippled logits": (CIFAR, "smallcnn-trades", FOUR, Rippled),
    "winners take all": (CIFAR, "smallcnn-trades", FOUR, winners_take_all),
    "mean sparse": (CIFAR, "smallcnn-trades", FOUR, mean_sparse),
}
"""Name -> data, weights, threat, and what is made of the network."""


def model_of(name: str, trained: Path) -> tuple[nn.Module, str, Threat]:
    if name in OTHERS:
        data, recipe, threat, make = OTHERS[name]
        return make(weights(trained, data, recipe)), data, threat
    if name == "logits x 1000":
        return Scaled(network_of("natural_small"), 1000.0), *NETWORKS["natural_small"]
    return network_of(name), *NETWORKS[name]


MODELS = (*NETWORKS, "logits x 1000", *OTHERS)


def run(options: argparse.Namespace) -> None:
    for model in options.model or MODELS:
        network, data, threat = model_of(model, options.trained)
        threat = Threat(*options.threat.split(":")) if options.threat else threat
        label = f"{model} {options.threat}".strip()
        some = slice(options.first, options.first + options.samples)
        batch = Digits().split("test").read(some) if data == "digits" else images_of(data, some.start, options.samples)
        for attack in options.attack or ATTACKS:
            for seed in options.seed:
                path = options.out / f"{label.replace(' ', '_')}-{attack}-{seed}.parquet"
                if path.exists():
                    continue
                given = attack, built(attack, options.knob)
                evaluation = Evaluation(Victim(plain(network), (network,)), given, threat, 10, seed, batch_size=250)
                rows = evaluate_chunk(evaluation, batch).rows.to_pandas()
                path.parent.mkdir(parents=True, exist_ok=True)
                rows.to_parquet(path.with_suffix(".tmp"))
                path.with_suffix(".tmp").replace(path)
                sys.stdout.write(f"{line(label, attack, seed, rows)}\n")
                sys.stdout.flush()


def line(model: str, attack: str, seed: int, rows: pd.DataFrame) -> str:
    assert rows["error"].isna().all()
    clean = rows[rows["stage"] == "clean"]
    right = clean[~clean["broken"]]["sample"]
    mine = rows[rows["sample"].isin(right) & (rows["stage"] != "clean")].copy()
    mine["cost"] = mine["forwards"] + 2 * mine["backwards"]
    total = mine.groupby("sample")[["cost", "broken"]].sum()
    standing = total[total["broken"] == 0]
    parts = mine[mine["broken"]].groupby("phase" if "phase" in mine else "stage").size()
    shown = ", ".join(f"{part.removesuffix('/true')} {count}" for part, count in parts.items())
    return (
        f"| {model} | {attack} | {seed} | {len(right) / len(clean):.1%} | {len(standing) / len(clean):.2%} "
        f"| {standing['cost'].mean():.0f} | {total['cost'].sum() / max(len(standing), 1):.0f} | {shown} |"
    )


def table(options: argparse.Namespace) -> Iterator[str]:
    yield "| model | attack | seed | clean | robust | K of a survivor | all passes per survivor | broken by |"
    yield "|---|---|---|---|---|---|---|---|"
    for model in options.model or MODELS:
        label = f"{model} {options.threat}".strip()
        for path in sorted(options.out.glob(f"{label.replace(' ', '_')}-*.parquet")):
            _, attack, seed = path.stem.rsplit("-", 2)
            yield line(label, attack, int(seed), pd.read_parquet(path))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--model", nargs="*")
    parser.add_argument("--attack", nargs="*")
    parser.add_argument("--threat", default="", metavar="NORM:EPS", help="in place of that of the model")
    parser.add_argument("--knob", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", nargs="*", type=int, default=[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--trained", type=Path, default=Path("runs/_trained"))
    parser.add_argument("--out", type=Path, default=Path("runs/_gauntlet"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "run":
        run(options)
    else:
        sys.stdout.write("\n".join(table(options)) + "\n")


if __name__ == "__main__":
    main()

"""What MixedNUTS gains on clean images and what it loses under attack, beside its robust network alone.

    python -m benchmarks.mixednuts [--seeds 3]

The shipped networks of digits, all test images. PGD with 40 steps on the margin attacks every image that is right,
through every head of the mixture; its base is attacked alike. A seed is that of the attack. Nothing is kept: it takes a
minute.
"""

import argparse
import sys
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from gauntlet.attacks.pgd import PGD
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.data.dataset import Batch
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.jobs.setup import KEYS
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

out = sys.stdout.write

CACHE = Path("runs/_trained")


def victims() -> tuple[dict[str, Victim], Batch, Threat]:
    """The mixture, and each of its networks alone."""
    with initialize_config_dir(CONF, version_base=None):
        cfg = checked(compose("run", ["defense=mixednuts"]), KEYS)
    dataset, defense, threat = build(cfg.dataset), build(cfg.defense), build(cfg.threat)
    models = {name: part.load(dataset, CACHE, progress=False).module for name, part in defense.parts.items()}
    alone = {name: Victim(plain(module), (module,)) for name, module in models.items()}
    split = dataset.split("test")
    return {"mixture": defense.deploy(models), **alone}, split.read(slice(0, len(split))), threat


def measure(victim: Victim, batch: Batch, threat: Threat, seed: int) -> tuple[int, dict[str, int], int]:
    """Right without an attack, left by each head alone, left by all."""
    attack = PGD(steps=40, loss="margin")
    run = Evaluation(victim, ("pgd", attack), threat, 10, seed=seed, coverage="correct")
    rows = evaluate_chunk(run, batch).rows.to_pandas()
    assert rows["error"].isna().all()
    wrong = {stage.rpartition("/")[2]: set(each[each["broken"]]["sample"]) for stage, each in rows.groupby("stage")}
    n, lost = len(batch.ids), wrong.pop("clean")
    left = {head: n - len(lost | found) for head, found in wrong.items()}
    return n - len(lost), left, n - len(set.union(lost, *wrong.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    deployed, batch, threat = victims()
    n = len(batch.ids)
    out("| victim | seed | clean % | left by each head, % | all % |\n|---|---|---|---|---|\n")
    for name, victim in deployed.items():
        for seed in range(options.seeds):
            clean, left, both = measure(victim, batch, threat, seed)
            told = ", ".join(f"{head} {100 * count / n:.1f}" for head, count in left.items())
            out(f"| {name} | {seed} | {100 * clean / n:.1f} | {told} | {100 * both / n:.1f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

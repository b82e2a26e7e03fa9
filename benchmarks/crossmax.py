"""What the true head of CrossMax hides: robust accuracy by it and by all heads, from a small eps to none at all.

    python -m benchmarks.crossmax run [--data digits cifar10_jpeg] [--seeds 3] [--minutes 30]
    python -m benchmarks.crossmax table

Each network of an ensemble is trained here, with the seed of its row. PGD with 40 steps attacks every image that is
right through every head, so that each head is measured by itself; `all` is the worst case over them. The same command
goes on where it stopped. The images of cifar10_jpeg are looked for in the folder named by GAUNTLET_SHARED, or in
../shared.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from benchmarks.few_images import Few
from benchmarks.seeds import Job, work_through
from benchmarks.training_effects import composed
from gauntlet.attacks.pgd import PGD
from gauntlet.config.validate import build
from gauntlet.defenses.crossmax import CrossMax
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.models import checkpoint
from gauntlet.models.batchnorm_folding import folded
from gauntlet.threat_model.threat import Threat
from gauntlet.training.loop import BEST
from gauntlet.training.trained_network import TrainedNetwork

out = sys.stdout.write

FOLDER = Path("runs/_benchmarks/crossmax")

MEMBERS = {
    "mixed": ("standard", "fgsm_rs", "pgd_at"),
    "alike": ("fgsm_rs", "fgsm_rs", "fgsm_rs"),
}
"""Ensemble -> recipe of each member; members of one recipe differ in their seeds."""


@dataclass(frozen=True)
class Data:
    """A data set: how its networks are trained, and what they are attacked with."""

    settings: tuple[str, ...]
    recipes: dict[str, tuple[str, ...]]
    train: int  # the first so many training images
    test: int  # the first so many test images, or all there are
    eps: tuple[str, ...]


def sets(shared: Path) -> dict[str, Data]:
    light = ("recipe.objective.attack.eps=4/255", "recipe.epochs=8")
    few = ("recipe.objective.attack.steps=2", "recipe.objective.attack.step_size=0.6", "recipe.weight_decay=5e-4")
    photographs = (
        "dataset=parquet", f"dataset.path={shared}/data/cifar10_jpeg", "dataset.name=cifar10_jpeg",
        "recipe.selection.limit=300", "recipe.selection.steps=3", "recipe.batch_size=128",
    )  # fmt: skip
    return {
        "digits": Data(
            ("dataset=digits",),
            {"standard": (), "fgsm_rs": (), "pgd_at": ()},
            10**6, 1000, ("0.05", "0.1", "0.15", "0.2", "0.3", "0.5", "1"),
        ),
        "cifar10_jpeg": Data(
            photographs,
            {
                "standard": ("recipe.epochs=10",),
                "fgsm_rs": (*light, "recipe.weight_decay=5e-4"),
                "pgd_at": (*light, *few),
            },
            12_000, 500,
            ("1/255", "2/255", "4/255", "8/255", "16/255", "32/255", "64/255", "128/255", "1"),
        ),
    }  # fmt: skip


def network(data: Data, recipe: str, seed: int) -> torch.nn.Module:
    """Trained where that has not been done."""
    cfg = composed(f"recipe={recipe}", "model=small_cnn", *data.settings, *data.recipes[recipe], f"seed={seed}")
    dataset: Any = Few(build(cfg.dataset), data.train)
    model, node = (OmegaConf.to_container(cfg[key]) for key in ("model", "recipe"))
    part = TrainedNetwork(model, node, seed=seed)  # type: ignore[arg-type]
    folder = part.train(dataset, FOLDER / "_trained", progress=False)
    module: torch.nn.Module = build(model)
    checkpoint.load(module, folder / BEST)
    return module.eval().requires_grad_(False)


def measure(data: Data, ensemble: str, seed: int, eps: str) -> dict[str, Any]:
    """What is left by each head alone and by all."""
    recipes = MEMBERS[ensemble]
    models = {f"{recipe}_{n}": network(data, recipe, 10 * seed + n) for n, recipe in enumerate(recipes)}
    defense = CrossMax(parts=dict.fromkeys(models), members=list(models))  # type: ignore[arg-type]
    victim = defense.deploy(models)
    fused = defense.deploy({name: folded(model) for name, model in models.items()})
    cfg = composed("recipe=standard", *data.settings)
    split = build(cfg.dataset).split("test")
    batch = split.read(slice(0, min(data.test, len(split))))
    run = Evaluation(
        victim, ("pgd", PGD(steps=40)), Threat("linf", eps), 10, seed=seed, fused=fused, coverage="correct"
    )
    rows = evaluate_chunk(run, batch).rows.to_pandas()
    assert rows["error"].isna().all()
    wrong = {stage: set(each[each["broken"]]["sample"]) for stage, each in rows.groupby("stage")}
    n, lost = len(batch.ids), wrong["clean"]
    left = {stage.rpartition("/")[2]: n - len(lost | found) for stage, found in wrong.items() if stage != "clean"}
    passes = rows[["forwards", "backwards"]].sum()
    return {
        "n": n,
        "clean": n - len(lost),
        "left": left,
        "all": n - len(set().union(*wrong.values())),
        "passes": int(passes["forwards"] + passes["backwards"]),
    }


def jobs(found: dict[str, Data], seeds: int) -> Iterator[Job]:
    for ensemble in MEMBERS:
        for seed in range(seeds):
            for name, data in found.items():
                for eps in data.eps:
                    yield place(name, ensemble, seed, eps), partial(measure, data, ensemble, seed, eps)


def place(name: str, ensemble: str, seed: int, eps: str) -> Path:
    return FOLDER / f"{name}-{ensemble}-{seed}-{eps.replace('/', '_')}.json"


def shares(results: Sequence[dict[str, Any]], head: str) -> list[float]:
    """What a head leaves, in percent, seed by seed."""
    return [100 * (each["all"] if head == "all" else each["left"][head]) / each["n"] for each in results]


def table(found: dict[str, Data], seeds: int) -> None:
    for name, data in found.items():
        for ensemble, recipes in MEMBERS.items():
            rows = []
            for eps in data.eps:
                paths = [place(name, ensemble, seed, eps) for seed in range(seeds)]
                results = [json.loads(path.read_text()) for path in paths if path.exists()]
                if results:
                    rows.append((eps, results))
            if rows:
                _print(name, ensemble, recipes, rows)


def _print(name: str, ensemble: str, recipes: tuple[str, ...], rows: list[tuple[str, list[dict[str, Any]]]]) -> None:
    first = rows[0][1]
    heads = list(first[0]["left"])
    cleans = ", ".join(f"{100 * each['clean'] / each['n']:.1f}" for each in first)
    out(f"\n**{name}, {ensemble}** ({', '.join(recipes)}): {first[0]['n']} test images, clean {cleans} %\n\n")
    out(
        "| eps | "
        + " | ".join(heads)
        + " | all | index, by seed | lowest alone |\n"
        + "|---" * (len(heads) + 4)
        + "|\n"
    )
    for eps, results in rows:
        means = {head: statistics.fmean(shares(results, head)) for head in [*heads, "all"]}
        pairs = zip(shares(results, "true"), shares(results, "all"), strict=True)
        index = ", ".join(f"{one - both:.1f}" for one, both in pairs)
        least = min(heads, key=lambda head: means[head])
        label = "unlimited" if Fraction(eps) == 1 else eps
        cells = " | ".join(f"{means[head]:.1f}" for head in [*heads, "all"])
        out(f"| {label} | {cells} | {index} | {least} |\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--data", nargs="+", default=["digits", "cifar10_jpeg"], choices=("digits", "cifar10_jpeg"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shared = Path(os.environ.get("GAUNTLET_SHARED") or "../shared").resolve()
    found = {name: data for name, data in sets(shared).items() if name in options.data}
    if options.what == "run":
        work_through(jobs(found, options.seeds), options.minutes, str)
    table(found, options.seeds)


if __name__ == "__main__":
    main()

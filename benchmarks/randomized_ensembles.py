"""Randomized ensembles under the usual attack and under ARC, against one adversarially trained network.

    python -m benchmarks.randomized_ensembles run [--out runs/_randomized] [--only digits] [--seeds 3] [--minutes 60]
    python -m benchmarks.randomized_ensembles table [--out runs/_randomized]

`run` trains and attacks what is missing, one after the other, and can be stopped and started at any time. Every arm of
one seed is attacked by the same stages; accuracies are exact expectations over the members.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.few_images import Few
from benchmarks.seeds import Job, add_options, interval, shares, work_through
from benchmarks.training_effects import composed
from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.randomized_ensemble.arc import ARC
from gauntlet.attacks.randomized_ensemble.expected_pgd import ExpectedPGD
from gauntlet.attacks.randomized_ensemble.lattice_climber import LatticeClimber
from gauntlet.attacks.suite import Suite
from gauntlet.config.validate import build
from gauntlet.defenses.randomized_ensemble import RandomizedEnsemble
from gauntlet.evaluation.chunk import ChunkEvaluator
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.metrics.ensemble_bounds import least, risks
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain
from gauntlet.training import history
from gauntlet.training.trained_network import TrainedNetwork

out = sys.stdout.write


def stages(rounds: int, targets: int) -> dict[str, Any]:
    """The attacks. APGD runs on the expected softmax and on each member; the others on all members at once.

    rounds, targets: of ARC.
    """
    paper = {"steps": rounds, "targets": targets, "order": "probability"}
    return {
        "apgd": APGD(steps=50),
        "apgd_margin": APGD(steps=50, loss="margin"),
        "arc_released": ARC(variant="released", **paper),  # type: ignore[arg-type]
        "arc_recentred": ARC(variant="recentred", **paper),  # type: ignore[arg-type]
        "arc_exact": ARC(variant="exact", **paper),  # type: ignore[arg-type]
        "arc": ARC(steps=rounds, targets=targets),
        "lattice_climber": LatticeClimber(),
        "expected_error": ExpectedPGD(steps=40),
    }


@dataclass(frozen=True)
class Data:
    """What is trained on, and how: the same for every arm. rounds, targets: of ARC."""

    images: int
    tested: int
    eps: str
    epochs: int
    steps: int
    rounds: int
    targets: int
    settings: tuple[str, ...]
    arms: tuple[str, ...]


def data(shared: Path) -> dict[str, Data]:
    photographs = (
        "dataset=parquet", f"dataset.path={shared}/data/cifar10_jpeg", "dataset.name=cifar10_jpeg", "model=small_cnn",
        "model.width=8", "dataset.budgets.linf=2/255", "recipe.weight_decay=5e-4", "recipe.learning_rate=0.05",
        "recipe.objective.attack.step_size=0.625", "recipe.selection.limit=100", "recipe.selection.steps=3",
    )  # fmt: skip
    return {
        "digits": Data(
            1000, 200, "0.15", 15, 5, 20, 0, ("dataset=digits", "model=small_cnn", "recipe.selection.limit=200"),
            ("AT", "AT, cost of BARRE", "BAT (.9, .1)", "BAT (.5, .5)", "IAT 3", "BARRE 3"),
        ),
        "cifar": Data(
            2000, 100, "2/255", 12, 2, 10, 3, photographs, ("AT", "BAT (.9, .1)", "BAT (.5, .5)", "IAT 2")
        ),
    }  # fmt: skip


ENSEMBLES: dict[str, tuple[list[str], list[float] | None]] = {
    "BAT (.9, .1)": (["first", "boosted"], [0.9, 0.1]),
    "BAT (.5, .5)": (["first", "boosted"], None),
    "IAT 2": (["first", "other"], None),
    "IAT 3": (["first", "other", "another"], None),
    "BARRE 3": (["barre_first", "barre_second", "barre_third"], None),
}
"""Arm -> its members and probabilities."""


@dataclass(frozen=True)
class Networks:
    """The trained networks of one seed, each trained once."""

    which: Data
    seed: int
    cache: Path

    def part(self, name: str) -> tuple[TrainedNetwork, dict[str, nn.Module], Any]:
        """The training of a network, what it is given, and its data."""
        recipe, seed, uses, epochs = "pgd_at", self.seed, {}, self.which.epochs
        if name in ("other", "another"):
            seed += 100 if name == "other" else 200
        elif name == "boosted":
            recipe, uses = "bat", {"first": "first"}
        elif name.startswith("barre"):
            order = ["first", "second", "third"]
            recipe = "barre"
            uses = {one: f"barre_{one}" for one in order[: order.index(name.removeprefix("barre_"))]}
        elif name == "long_barre":
            epochs = round(epochs * sum(1 + self.which.steps * k for k in (1, 2, 3)) / (1 + self.which.steps))
        own = (f"recipe.epochs={epochs}", f"recipe.objective.attack.steps={self.which.steps}")
        cfg = composed(f"recipe={recipe}", *self.which.settings, *own)
        model, node = (OmegaConf.to_container(cfg[key]) for key in ("model", "recipe"))
        part = TrainedNetwork(model, node, seed=seed, uses=list(uses))  # type: ignore[arg-type]
        given = {argument: self.load(source) for argument, source in uses.items()}
        return part, given, Few(build(cfg.dataset), self.which.images)

    def load(self, name: str) -> nn.Module:
        part, given, dataset = self.part(name)
        return part.load(dataset, self.cache, given=given, progress=False).module

    def passes(self, name: str) -> float:
        """Forward and backward passes of the training, per image."""
        part, given, dataset = self.part(name)
        done = history.read(part.train(dataset, self.cache, given=given, progress=False))
        return sum(epoch.forwards + epoch.backwards for epoch in done.epochs)


def measure(which: Data, arm: str, seed: int, cache: Path) -> dict[str, Any]:
    """Train where that has not been done, attack, and count."""
    networks = Networks(which, seed, cache)
    if arm in ENSEMBLES:
        names, chances = ENSEMBLES[arm]
        models = {name: networks.load(name) for name in names}
        ensemble = RandomizedEnsemble(parts=dict.fromkeys(names), members=names, probabilities=chances)  # type: ignore[arg-type]
        victim = ensemble.deploy(models)
    else:
        names = ["first" if arm == "AT" else "long_barre"]
        model = networks.load(names[0])
        victim = Victim(plain(model), (model,))
    passes = sum(networks.passes(name) for name in names)
    found = attacked(victim, networks.part(names[0])[2].split("test"), which)
    return found | {"passes": passes}


def attacked(victim: Victim, split: Any, which: Data) -> dict[str, Any]:
    """Accuracy [0, 1] on the clean image or the candidate of each stage, whichever is worse, and the worst of all."""
    run = Evaluation(
        victim, ("suite", Suite(stages(which.rounds, which.targets))), Threat("linf", which.eps), 10, coverage="all"
    )
    batch = split.read(slice(0, which.tested))
    order = batch.ids.argsort()
    ledger = ChunkEvaluator(run, *(t[order] for t in batch))
    ledger.clean()
    everyone = torch.arange(len(batch.ids))
    for stage in run.stages:
        if not (victim.randomized and stage.head.name == "true"):
            for crafted in ledger.crafted(stage, [everyone]):
                ledger.judged(stage, crafted)
    rows = ledger.close().rows.to_pandas()
    rows["share"] = rows["fresh_share"] if victim.randomized else rows["broken"].astype(float)
    shares = rows.pivot_table(index="sample", columns="stage", values="share")
    groups: dict[str, list[str]] = {"clean": ["clean"]}
    for stage in shares.columns:
        if stage != "clean":
            groups.setdefault(stage.split("/")[0], ["clean"]).append(stage)
    if "apgd/expected_softmax" in shares.columns:
        groups["apgd on softmax"] = ["clean", "apgd/expected_softmax"]
    found: dict[str, Any] = {name: 1 - float(shares[group].max(axis=1).mean()) for name, group in groups.items()}
    found["worst"] = 1 - float(shares.max(axis=1).mean())
    if victim.randomized:
        united = rows.groupby("sample")["fooled"].agg(_union)
        each = risks(united.to_numpy(), len(victim.members))
        found |= {"members": (1 - each).tolist(), "bound": [1 - least(each)[1], 1 - least(each)[0]]}
    return found


def _union(masks: Any) -> int:
    united = 0
    for mask in masks:
        united |= int(mask)
    return united


DEAR = ("AT, cost of BARRE", "BARRE 3")
"""Arms whose training takes longest: they come last."""


def jobs(folder: Path, found: dict[str, Data], seeds: int) -> Iterator[Job]:
    for late in (False, True):
        for seed in range(seeds):
            for name, which in found.items():
                for arm in which.arms:
                    if (arm in DEAR) == late:
                        yield place(folder, name, arm, seed), partial(measure, which, arm, seed, folder / "_trained")


def place(folder: Path, name: str, arm: str, seed: int) -> Path:
    word = "".join(letter if letter.isalnum() else "_" for letter in arm.lower())
    return folder / f"{name}-{word}-{seed}.json"


SHOWN = ("clean", "apgd on softmax", "apgd", "arc_released", "arc_recentred", "arc_exact", "arc",
         "lattice_climber", "expected_error", "worst")  # fmt: skip


def table(folder: Path, found: dict[str, Data], seeds: int) -> None:
    for name, which in found.items():
        out(f"\n**{name}**: {which.images} images, eps {which.eps}\n\n")
        heads = " | ".join((*SHOWN, "gain by apgd", "gain, worst", "best member", "bounds"))
        out(f"| arm (seeds) | passes | {heads} |\n{(len(SHOWN) + 6) * '|---'}|\n")
        plain = _read(folder, name, "AT", seeds)
        for arm in which.arms:
            runs = _read(folder, name, arm, seeds)
            if runs:
                cells = [interval([run[key] for run in runs.values() if key in run]) for key in SHOWN]
                if arm in ENSEMBLES:
                    pairs = [(run, plain[seed]) for seed, run in runs.items() if seed in plain]
                    cells.append(interval([run["apgd on softmax"] - one["apgd"] for run, one in pairs]))
                    cells.append(interval([run["worst"] - one["worst"] for run, one in pairs]))
                    cells.append(interval([max(run["members"]) for run in runs.values()]))
                    cells.append(" to ".join(interval([run["bound"][end] for run in runs.values()]) for end in (0, 1)))
                passes = statistics.fmean(run["passes"] for run in runs.values())
                out(f"| {arm} ({len(runs)}) | {passes:.0f} | {' | '.join(cells)} |\n")


def _read(folder: Path, name: str, arm: str, seeds: int) -> dict[int, dict[str, Any]]:
    """Seed -> what was measured, as far as it is there."""
    paths = {seed: place(folder, name, arm, seed) for seed in range(seeds)}
    return {seed: json.loads(path.read_text()) for seed, path in paths.items() if path.exists()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["run", "table"])
    add_options(parser, "runs/_randomized")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {k: v for k, v in data(options.shared.resolve()).items() if not options.only or k in options.only}
    if options.what == "run":
        work_through(jobs(options.out, found, options.seeds), options.minutes, shares)
    else:
        table(options.out, found, options.seeds)


if __name__ == "__main__":
    main()

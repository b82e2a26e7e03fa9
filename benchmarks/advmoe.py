"""AdvMoE against its ablations: clean and robust accuracy, loads, and what each head finds.

    python -m benchmarks.advmoe [--minutes 4] [--seeds 3] [--epochs 20] [--runs runs/_benchmark_advmoe]
    python -m benchmarks.advmoe --data photographs [--arms AdvMoE dense ...] [--shared ../shared]
    python -m benchmarks.advmoe [--data photographs] --table

Every arm trains the same number of epochs from the same seeds, and its last weights are attacked on the test part, by
PGD on the margin through all heads that the defense declares. A cell (arm, seed) that is done is a file in the folder
of runs; a stopped training goes on where it stood, so the same command, given often enough, finishes. The minutes are
those of the processor. `--table` prints what is there as Markdown.
"""

import argparse
import json
import math
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.few_images import Few
from gauntlet.attacks.pgd import PGD
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.data.dataset import Batch
from gauntlet.defenses.advmoe import AdvMoE
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.jobs.training_job import KEYS
from gauntlet.models import checkpoint
from gauntlet.models.moe import MixtureOfExperts
from gauntlet.system.atomic_file import write_atomically
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain
from gauntlet.training.loop import LAST
from gauntlet.training.trained_network import TrainedNetwork

ARMS: dict[str, list[str]] = {
    "AdvMoE": ["recipe=advmoe", "model=moe_small_cnn"],
    "one pathway alone": ["recipe=advmoe_dense", "model=moe_small_cnn", "model.experts=1"],
    "dense": ["recipe=advmoe_dense", "model=small_cnn"],
    "frozen router, even": ["recipe=advmoe_frozen_router", "model=moe_small_cnn", "model.standardise=true"],
    "frozen router": ["recipe=advmoe_frozen_router", "model=moe_small_cnn"],
    "constant expert": ["recipe=advmoe_frozen_router", "model=moe_small_cnn", "model.router=constant"],
    "vanilla": ["recipe=advmoe_vanilla", "model=moe_small_cnn"],
    "label route": ["recipe=advmoe_label_route", "model=moe_small_cnn"],
    "AdvMoE, balance": [
        "recipe=advmoe", "model=moe_small_cnn", "recipe.alternation.phases.1.objective.target=balance",
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What the arms are trained and attacked on.

    Args:
        data: overrides of the data set and of the training; {shared} is where public data are.
        mixture: overrides of the networks with pathways.
        images: how many of the training, the first ones.
        judged: how many of the test part are attacked, the first ones.
        steps: of that attack, four radii long in all.
        epochs: where none are given.
    """

    data: tuple[str, ...]
    mixture: tuple[str, ...]
    images: int
    judged: int
    steps: int
    epochs: int


SETTINGS = {
    "digits": Setting((), (), 10**9, 10**9, 40, 20),
    "photographs": Setting(
        (
            "dataset=parquet", "dataset.path={shared}/data/cifar10_jpeg", "dataset.name=cifar10_jpeg",
            "dataset.budgets.linf=4/255", "recipe.batch_size=32",
        ),
        ("model.scale=0.125",), 10000, 300, 20, 4,
    ),
}  # fmt: skip
"""Pathways have an eighth of the width on photographs, half of it on digits, where a narrow network suffices."""

BRIEF = ["recipe.selection.limit=100", "recipe.selection.steps=2"]
"""The last weights count, so that the best epoch need not be found with care."""


class OutOfTime(Exception):
    """The minutes are used up; what was trained so far is saved."""


class Clock:
    """Ends a training that is told of its epochs when the time is over."""

    def __init__(self, seconds: float) -> None:
        self.end = time.process_time() + seconds

    def log(self, *_: object, **__: object) -> None:
        if time.process_time() > self.end:
            raise OutOfTime


class Watch:
    """A tracker whose only purpose is the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def training(self, *_: object) -> Any:
        return nullcontext(self.clock)


def cell(arm: str, seed: int, epochs: int, setting: Setting, shared: Path, runs: Path, clock: Clock) -> dict[str, Any]:
    """Train and attack one arm with one seed: the numbers of its line."""
    recipe, network, *own = ARMS[arm]
    data = [override.format(shared=shared) for override in setting.data]
    mixture = setting.mixture if "moe" in network else ()
    chosen = [recipe, network, *data, *mixture, *own, *BRIEF, f"recipe.epochs={epochs}", f"seed={seed}"]
    with initialize_config_dir(CONF, version_base=None):
        cfg = checked(compose("train", chosen), KEYS)
    dataset = Few(build(cfg.dataset), setting.images)
    model, training = (OmegaConf.to_container(node) for node in (cfg.model, cfg.recipe))
    part = TrainedNetwork(model, training, seed=seed)  # type: ignore[arg-type]
    folder = part.train(dataset, runs, progress=False, tracker=Watch(clock))  # type: ignore[arg-type]
    module = build(cfg.model)
    checkpoint.load(module, folder / LAST)
    module.eval().requires_grad_(False)
    batch = dataset.split("test").read(slice(0, setting.judged))
    threat = Threat("linf", dataset.budgets["linf"])
    attack = PGD(steps=setting.steps, step_size=4 / setting.steps, loss="margin")
    row = {"arm": arm, "seed": seed, "epochs": epochs, **attacked(victim_of(module), batch, threat, attack)}
    if isinstance(module, MixtureOfExperts):
        row |= loads(module, batch)
        if arm == "label route":
            row["oracle"] = oracle(module, batch, threat, attack)
    return row | {"multiply_adds": multiply_adds(module, batch)}


def victim_of(module: nn.Module) -> Victim:
    """As it is deployed, with its heads."""
    if isinstance(module, MixtureOfExperts):
        return AdvMoE(parts={"model": None}).deploy({"model": module})  # type: ignore[dict-item]
    return Victim(plain(module), (module,))


def attacked(victim: Victim, batch: Batch, threat: Threat, attack: PGD) -> dict[str, Any]:
    """Accuracies in percent: clean, under the true head alone, and under each other head alone; robust: under all."""
    run = Evaluation(victim, ("pgd", attack), threat, 10, batch_size=360, coverage="correct")
    rows = evaluate_chunk(run, batch).rows.to_pandas()
    total, wrong = len(batch.ids), rows[rows.stage == CLEAN_STAGE].broken.sum()
    heads = {
        stage.split("/")[-1]: 100 * (1 - (wrong + part.broken.sum()) / total)
        for stage, part in rows[rows.stage != CLEAN_STAGE].groupby("stage")
    }
    broken = rows[rows.broken]["sample"].nunique()
    return {"clean": 100 * (1 - wrong / total), "robust": 100 * (1 - broken / total), "heads": heads}


@torch.no_grad()
def loads(module: MixtureOfExperts, batch: Batch) -> dict[str, Any]:
    """Largest share of a pathway in percent, and how often the route is the label's remainder."""
    route = module.scores(batch.x).argmax(1)
    largest = torch.bincount(route, minlength=module.experts).max()
    agree = (route == batch.y % module.experts).float().mean()
    return {"load": 100 * float(largest) / len(route), "label_mod": 100 * float(agree)}


def oracle(module: MixtureOfExperts, batch: Batch, threat: Threat, attack: PGD) -> dict[str, float]:
    """Clean and robust accuracy where the route is the label's remainder, which no deployed network could know."""
    count, clean, robust = len(batch.ids), 0.0, 0.0
    for expert in range(module.experts):
        mine = batch.y % module.experts == expert
        victim = Victim(lambda x, rng, e=expert: module.pathway(x, e), (module,))  # type: ignore[misc]
        found = attacked(victim, Batch(batch.ids[mine], batch.x[mine], batch.y[mine]), threat, attack)
        clean, robust = clean + found["clean"] * int(mine.sum()), robust + found["robust"] * int(mine.sum())
    return {"clean": clean / count, "robust": robust / count}


@torch.no_grad()
def multiply_adds(module: nn.Module, batch: Batch) -> int:
    """Of one image, counted by hooks on what was executed."""
    with FlopCounterMode(display=False) as counter:
        module(batch.x[:1])
    return int(counter.get_total_flops()) // 2


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: an arm a line, means over the seeds; differences to AdvMoE are paired by seed."""
    reference = {row["seed"]: row["robust"] for row in rows if row["arm"] == "AdvMoE"}
    lines = [
        "| arm | multiply-adds | clean | robust | true head alone | largest load | AdvMoE minus arm | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        mine = [row for row in rows if row["arm"] == arm]
        if mine:
            gaps = [reference[row["seed"]] - row["robust"] for row in mine if row["seed"] in reference]
            cells = [spread([row[name] for row in mine]) for name in ("clean", "robust")]
            cells.append(spread([row["heads"]["true"] for row in mine]))
            cells.append(spread([row["load"] for row in mine if "load" in row]))
            cells.append("" if arm == "AdvMoE" else interval(gaps))
            lines.append(f"| {arm} | {mine[0]['multiply_adds']:,} | {' | '.join(cells)} | {len(mine)} |")
    oracles = [row["oracle"] for row in rows if "oracle" in row]
    if oracles:
        cells = [spread([row[name] for row in oracles]) for name in ("clean", "robust")]
        lines.append(f"| label route, oracle | | {' | '.join(cells)} | | | | {len(oracles)} |")
    return "\n".join(lines)


HEADS = ("true", "straight_through", "soft", "pathway_0", "pathway_1")


def by_head(rows: list[dict[str, Any]]) -> str:
    """Markdown: robust accuracy by one head alone, and how often the route is the label's remainder."""
    lines = [f"| arm | {' | '.join(HEADS)} | all | route is y mod E |", "|---" * (len(HEADS) + 3) + "|"]
    for arm in ARMS:
        mine = [row for row in rows if row["arm"] == arm and set(HEADS) <= row["heads"].keys()]
        if mine:
            cells = [spread([row["heads"][head] for row in mine]) for head in HEADS]
            cells += [spread([row["robust"] for row in mine]), spread([row["label_mod"] for row in mine])]
            lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return ""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Quantiles of the t distribution for a 95 % interval of that many paired differences."""


def interval(gaps: list[float]) -> str:
    """Mean of paired differences with its 95 % interval."""
    if len(gaps) not in STUDENT:
        return f"{gaps[0]:+.1f}" if gaps else ""
    middle, half = statistics.mean(gaps), STUDENT[len(gaps)] * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return f"{middle:+.1f} [{middle - half:+.1f}, {middle + half:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", choices=SETTINGS, default="digits")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = SETTINGS[options.data]
    epochs = options.epochs or setting.epochs
    runs = options.runs or Path("runs/_benchmark_advmoe" + (f"_{options.data}" if options.data != "digits" else ""))
    done, out = runs / "cells", sys.stdout.write
    done.mkdir(parents=True, exist_ok=True)
    clock = Clock(60 * options.minutes)
    try:
        for seed in () if options.table else range(options.seeds):
            for number, arm in enumerate(ARMS):
                path = done / f"{number}_{seed}_{epochs}.json"
                if arm in options.arms and not path.exists():
                    found = cell(arm, seed, epochs, setting, options.shared.resolve(), runs, clock)
                    write_atomically(path, json.dumps(found).encode())
                    out(f"{arm}, seed {seed}: {path.read_text()}\n")
                    clock.log()
    except OutOfTime:
        out("the minutes are over; the same command goes on\n")
    rows = [json.loads(path.read_text()) for path in sorted(done.glob(f"*_{epochs}.json"))]
    out(f"{table(rows)}\n\n{by_head(rows)}\n")


if __name__ == "__main__":
    main()

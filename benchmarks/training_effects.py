"""What the methods of training do on small data: how a trained network is measured, and the tables.

Robust: the worst of PGD on cross-entropy and on the margin, on the test part; train: the same on the
images of the training. Seeds are paired: all arms of one seed see the same order of images, the same augmentation and
the same noise. See benchmarks/training.py for the commands.
"""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch import nn

from benchmarks.few_images import Few
from benchmarks.seeds import Job, interval, shares
from benchmarks.training_questions import Effect
from gauntlet.attacks.pgd import PGD
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.data.dataset import Split
from gauntlet.jobs.training_job import KEYS
from gauntlet.models import checkpoint
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, plain
from gauntlet.training import history
from gauntlet.training.loop import BEST, LAST
from gauntlet.training.simple_corruptions import accuracy_under_corruptions
from gauntlet.training.trained_network import TrainedNetwork

out = sys.stdout.write


def composed(*overrides: str) -> DictConfig:
    """The configuration of a training."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return checked(compose("train", list(overrides)), KEYS)


class Judged(NamedTuple):
    """Accuracies: clean, under the worse of two PGDs, under that on cross-entropy; of the worst class under both, and
    the mean over the worst 30 % of the classes; under the corruptions of `gauntlet.training.simple_corruptions`."""

    clean: float
    robust: float
    ce: float
    worst_class: float
    tail: float
    corrupted: float


def worst(network: nn.Module, split: Split, effect: Effect) -> Judged:
    """Attack the network with both PGDs."""
    network.eval().requires_grad_(False)
    labels, outcomes, corrupted = [], [], 0.0
    total = min(effect.judged, len(split))
    for begin in range(0, total, 250):
        batch = split.read(list(range(begin, min(begin + 250, total))))
        order = batch.ids.argsort()
        ids, x, y = batch.ids[order], batch.x[order], batch.y[order]
        right = network(x).argmax(1) == y
        stands = {}
        for loss in ("ce", "margin"):
            rng = Rng(0, ids, f"effects/{loss}")
            head = CountedHead(Head("true", plain(network), exact=True), plain(network), Counts.of(ids))
            z = PGD(steps=effect.steps, loss=loss)(head, x, y, threat=Threat("linf", effect.eps), rng=rng)
            stands[loss] = right & (network(z).argmax(1) == y)
        labels.append(y)
        corrupted += accuracy_under_corruptions(network, x, y) * len(y) / total
        outcomes.append(torch.stack([right, stands["ce"] & stands["margin"], stands["ce"]]))
    y, found = torch.cat(labels), torch.cat(outcomes, 1).double()
    clean, robust, ce = found.mean(1).tolist()
    classes = sorted(float(found[1, y == label].mean()) for label in set(y.tolist()))
    few = classes[: max(1, round(0.3 * len(classes)))]
    return Judged(clean, robust, ce, classes[0], sum(few) / len(few), corrupted)


def measure(effect: Effect, arm: str, seed: int, cache: Path) -> dict[str, Any]:
    """Train where that has not been done, and attack the best and the last weights."""
    # Overrides of the arm come last; only the recipe must be chosen first.
    (recipe, *own), settings = effect.arms[arm], list(effect.settings)
    cfg = composed(recipe, *settings, *own, f"seed={seed}")
    dataset = Few(build(cfg.dataset), effect.images)
    model, node = (OmegaConf.to_container(cfg[key]) for key in ("model", "recipe"))
    part = TrainedNetwork(model, node, seed=seed)  # type: ignore[arg-type]
    folder = part.train(dataset, cache, progress=False, channels_last=dataset.channels > 1)  # type: ignore[arg-type]
    done, found = history.read(folder), {}
    for name in (LAST, BEST):
        key = name.split(".")[0]
        if name == BEST and done.best and done.last and done.best.epoch == done.last.epoch:
            found |= {"best_clean": found["last_clean"], "best_robust": found["last_robust"]}
            continue
        network = build(model)
        checkpoint.load(network, folder / name)
        judged = worst(network, dataset.split("test"), effect)
        found |= {f"{key}_{field}": value for field, value in judged._asdict().items()}
        if name == LAST:
            found["train_robust"] = worst(network, dataset.split("train"), effect).robust
    alarms = [epoch.epoch for epoch in done.epochs if epoch.catastrophic]
    passes = sum(epoch.forwards + epoch.backwards for epoch in done.epochs)
    return found | {"alarms": alarms, "passes": passes, "key": part.key(dataset)}  # type: ignore[arg-type]


def jobs(folder: Path, found: dict[str, Effect], seeds: int) -> Iterator[Job]:
    """Every training and its measurement, the first seed of everything first."""
    for seed in range(seeds):
        for name, effect in found.items():
            for arm in effect.arms:
                yield place(folder, name, arm, seed), partial(measure, effect, arm, seed, folder / "_trained")


def place(folder: Path, name: str, arm: str, seed: int) -> Path:
    return folder / f"{name}-{arm.lower().replace(' ', '_')}-{seed}.json"


def short(result: dict[str, Any]) -> str:
    return shares(result) + (f", alarms in {result['alarms']}" if result["alarms"] else "")


def _gap(run: dict[str, Any]) -> float:
    """What is lost between the images of the training and those of the test."""
    return float(run["train_robust"] - run["last_robust"])


def _read(path: Path) -> dict[str, Any]:
    """Return what was measured; lost: robust accuracy from the best to the last epoch."""
    run = json.loads(path.read_text())
    return run | {"lost": run["best_robust"] - run["last_robust"]}


def table(folder: Path, found: dict[str, Effect], seeds: int) -> None:
    for name, effect in found.items():
        results = {
            arm: {s: _read(p) for s in range(seeds) if (p := place(folder, name, arm, s)).exists()}
            for arm in effect.arms
        }
        if not any(results.values()):
            continue
        out(f"\n**{effect.question}** `{name}`: {effect.images} images, eps {effect.eps}\n\n")
        also = "".join(f" {heading} | over the first |" for heading, _ in effect.also)
        out(
            "| arm | seeds | clean | robust | over the first | train - test | over the first | best - last | alarms |"
            + also
            + "\n"
            + (9 + 2 * len(effect.also)) * "|---"
            + "|\n"
        )
        first = results[next(iter(effect.arms))]
        for arm, runs in results.items():
            if not runs:
                continue
            pairs = [(run, first[s]) for s, run in runs.items() if s in first and runs is not first]
            cells = [
                interval([run["last_clean"] for run in runs.values()]),
                interval([run["last_robust"] for run in runs.values()]),
                interval([run["last_robust"] - base["last_robust"] for run, base in pairs]),
                interval([_gap(run) for run in runs.values()]),
                interval([_gap(run) - _gap(base) for run, base in pairs]),
                interval([run["lost"] for run in runs.values()]),
                str(sum(bool(run["alarms"]) for run in runs.values())),
            ]
            for _, field in effect.also:
                cells.append(interval([run[field] for run in runs.values()]))
                cells.append(interval([run[field] - base[field] for run, base in pairs]))
            out(f"| {arm} | {len(runs)} | {' | '.join(cells)} |\n")

"""What the methods of training do on small data: the questions, and how a trained network is measured.

Robust: the worst of PGD on cross-entropy and on the margin, on the test part; train: the same on the
images of the training. Seeds are paired: all arms of one seed see the same order of images, the same augmentation and
the same noise. See benchmarks/training.py for the commands.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch import nn

from benchmarks.seeds import Job, interval, shares
from gauntlet.attacks.pgd import PGD
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.data import Dataset
from gauntlet.data.dataset import Batch, Split
from gauntlet.jobs.training_job import KEYS
from gauntlet.models import checkpoint
from gauntlet.threat_model.counted_head import CountedHead, Counts
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


@dataclass(frozen=True)
class Few:
    """A data set of which training sees the first images only."""

    whole: Dataset
    images: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def split(self, part: str) -> Split:
        whole = self.whole.split(part)
        return First(whole, self.images) if part == "train" else whole


@dataclass(frozen=True)
class First:
    """The first images of a split, which lie in no order that means anything."""

    whole: Split
    images: int

    @property
    def ids(self) -> Any:
        return self.whole.ids[: self.images]

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, positions: Any) -> Batch:
        return self.whole.read(positions)

    def digest(self) -> str:
        return self.whole.digest()

    def selection(self) -> str:
        return f"first {self.images}"


@dataclass(frozen=True)
class Effect:
    """A question, and the trainings that answer it; every arm is compared with the first.

    judged: how many images of the test part, and as many of those of the training, are attacked; steps: of those PGDs;
    also: columns of the table beside the usual ones, of the last weights: heading -> field of `Judged`.
    """

    question: str
    eps: str
    images: int
    settings: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    judged: int = 360
    steps: int = 30
    also: tuple[tuple[str, str], ...] = ()


def _digits(
    question: str,
    eps: str,
    images: int,
    epochs: int,
    arms: dict[str, tuple[str, ...]],
    also: tuple[tuple[str, str], ...] = (),
) -> Effect:
    settings = (
        "dataset=digits", "model=small_cnn", f"dataset.budgets.linf={eps}", f"recipe.epochs={epochs}",
        "recipe.schedule=step", "recipe.weight_decay=5e-4", "recipe.warmup=0", "recipe.learning_rate=0.1",
        "recipe.selection.limit=200", "recipe.selection.steps=5",
    )  # fmt: skip
    return Effect(question, eps, images, settings, arms, also=also)


def _cifar(shared: Path, question: str, eps: str, images: int, epochs: int, arms: dict[str, tuple[str, ...]]) -> Effect:
    settings = (
        "dataset=parquet", f"dataset.path={shared}/data/cifar10_jpeg", "dataset.name=cifar10_jpeg",
        "dataset.size=16", "dataset.resize=16", "model=preact_resnet18", "model.width=8",
        f"dataset.budgets.linf={eps}", f"recipe.epochs={epochs}",
        "recipe.schedule=step", "recipe.warmup=0", "recipe.learning_rate=0.1", "recipe.weight_decay=5e-4",
        "recipe.batch_size=20", "recipe.selection.limit=100", "recipe.selection.steps=3",
        "recipe.selection.step_size=0.5",
    )  # fmt: skip
    return Effect(question, eps, images, settings, arms, judged=300, steps=20)


def effects(shared: Path) -> dict[str, Effect]:
    gamma = "recipe.weight_perturbation.radius"
    factors = ("model=low_rank", "recipe.weight_decay=0")
    large = ("recipe.batch_size=250", "recipe.learning_rate=0.2", "recipe.warmup=0.1")
    few = ("recipe.objective.attack.steps=3", "recipe.objective.attack.step_size=0.5")
    return {
        "robust": _digits(
            "Does training on PGD examples make robust?", "0.15", 1000, 15,
            {"standard": ("recipe=standard",), "PGD-AT": ("recipe=pgd_at",)},
        ),
        "trade": _digits(
            "Do TRADES and MART trade clean accuracy for a smaller gap between train and test?", "0.2", 1000, 15,
            {"PGD-AT": ("recipe=pgd_at",), "TRADES": ("recipe=trades",), "MART": ("recipe=mart",)},
        ),
        "awp": _digits(
            "Does AWP close the gap between train and test, and best and last?", "0.2", 200, 80,
            {
                "PGD-AT": ("recipe=pgd_at",),
                "AWP 0.01": ("recipe=pgd_at_awp",),
                "AWP 0.03": ("recipe=pgd_at_awp", f"{gamma}=0.03"),
                "EMA 0.99": ("recipe=pgd_at", "recipe.ema=0.99"),
            },
        ),
        "trades_awp": _digits(
            "Does AWP help TRADES?", "0.2", 200, 40,
            {
                "TRADES": ("recipe=trades",),
                "AWP 0.005": ("recipe=trades_awp",),
                "AWP 0.01": ("recipe=trades_awp", f"{gamma}=0.01"),
            },
        ),
        "co": _digits(
            "Does a single step fail at a large eps, where ten do not?", "0.3", 1000, 40,
            {
                "PGD-AT": ("recipe=pgd_at",),
                "FGSM": ("recipe=fgsm_rs", "recipe.objective.attack.init=zero", "recipe.objective.attack.step_size=1"),
                "FGSM-RS": ("recipe=fgsm_rs",),
                "N-FGSM": ("recipe=n_fgsm",),
            },
        ),
        "single": _digits(
            "Does more noise help a single step at a moderate eps?", "0.15", 1000, 15,
            {"FGSM-RS": ("recipe=fgsm_rs",), "N-FGSM": ("recipe=n_fgsm",), "PGD-AT": ("recipe=pgd_at",)},
        ),
        "flat": _digits(
            "Do flat minima generalize on clean images?", "0.15", 200, 40,
            {
                "standard": ("recipe=standard",),
                "AMP 0.5": ("recipe=amp",),
                "AMP 0.1": ("recipe=amp", f"{gamma}=0.1"),
                "SAM 0.05": ("recipe=sam",),
                "ASAM 0.5": ("recipe=asam",),
            },
        ),
        "weighting": _digits(
            "Do trainings that weight samples hold under an attack that is not theirs?", "0.2", 1000, 30,
            {"PGD-AT": ("recipe=pgd_at",), "GAIRAT": ("recipe=gairat",), "MAIL": ("recipe=mail",),
             "LRAT": ("recipe=lrat",)},
            also=(("PGD on cross-entropy alone", "ce"),),
        ),
        "classes": _digits(
            "Does weighting samples or classes help the worst classes?", "0.2", 1000, 30,
            {"PGD-AT": ("recipe=pgd_at",), "DAFA": ("recipe=dafa",), "DONE 2": ("recipe=done",),
             "DONE 5": ("recipe=done", "recipe.weighting.temperature=5")},
            also=(("worst class", "worst_class"), ("worst 30 % of classes", "tail")),
        ),
        "condition": _digits(
            "Do bounded condition numbers help low-rank networks against small perturbations?", "0.05", 1000, 30,
            {
                "low rank": ("recipe=condlr", *factors, "recipe.constraint.tau=null"),
                "CondLR 0.5": ("recipe=condlr", *factors),
                "CondLR 0.1": ("recipe=condlr", *factors, "recipe.constraint.tau=0.1"),
                "standard": ("recipe=standard",),
            },
        ),
        "pruning": _digits(
            "Does sharpness by importance help a pruned network under corruptions?", "0.15", 1000, 30,
            {
                "pruned": ("recipe=adasap", "recipe.weight_perturbation=null"),
                "AdaSAP": ("recipe=adasap",),
                "dense": ("recipe=standard",),
            },
            also=(("clean", "clean"), ("corrupted", "corrupted")),
        ),
        "advprop": _digits(
            "Do adversarial examples with batch norms of their own help on clean and corrupted images?", "0.15", 1000,
            30,
            {"standard": ("recipe=standard",), "AdvProp": ("recipe=advprop",)},
            also=(("clean", "clean"), ("corrupted", "corrupted")),
        ),
        "lag": _digits(
            "Do they in large batches, and does it matter how old the attacked weights are?", "0.15", 1000, 30,
            {
                "standard": ("recipe=standard", *large),
                "lag 0": ("recipe=conadv", *large, "recipe.objective.lag=0"),
                "ConAdv, lag 1": ("recipe=conadv", *large),
                "lag 4": ("recipe=conadv", *large, "recipe.objective.lag=4"),
            },
            also=(("clean", "clean"), ("corrupted", "corrupted")),
        ),
        "cifar_awp": _cifar(
            shared, "Does AWP close the gaps on photographs?", "8/255", 200, 30,
            {"PGD-AT": ("recipe=pgd_at", *few), "AWP 0.01": ("recipe=pgd_at_awp", *few)},
        ),
        "cifar_co": _cifar(
            shared, "Does a single step overfit catastrophically on photographs?", "16/255", 200, 30,
            {"PGD-AT": ("recipe=pgd_at", *few), "FGSM-RS": ("recipe=fgsm_rs",)},
        ),
    }  # fmt: skip


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


def table(folder: Path, found: dict[str, Effect], seeds: int) -> None:
    for name, effect in found.items():
        results = {
            arm: {s: json.loads(p.read_text()) for s in range(seeds) if (p := place(folder, name, arm, s)).exists()}
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
                interval([run["best_robust"] - run["last_robust"] for run in runs.values()]),
                str(sum(bool(run["alarms"]) for run in runs.values())),
            ]
            for _, field in effect.also:
                key = f"last_{field}"
                cells.append(interval([run[key] for run in runs.values()]))
                cells.append(interval([run[key] - base[key] for run, base in pairs]))
            out(f"| {arm} | {len(runs)} | {' | '.join(cells)} |\n")

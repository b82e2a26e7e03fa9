"""Whether a model is as accurate on clean images as declared: by the user, or by those who published it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig

from gauntlet.data.dataset import Split
from gauntlet.errors import UserError
from gauntlet.metrics.confidence import wilson
from gauntlet.models import published_accuracy
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Victim

CHECKED = 2000
"""Images on which a declared clean accuracy is checked, spread over the run: many sets are in order of classes."""

CONFIDENCE = 0.999
"""Of the interval that the declared accuracy must lie in: one right model in a thousand is refused."""

BARE = "gauntlet.defenses.none.Undefended"
"""The defense that is the network as it was published."""


class DeclaredAccuracy(NamedTuple):
    """What is declared. shares: one of them is meant, in (0, 1]; words: who says so."""

    shares: Sequence[float]
    words: str


def declared_accuracy(cfg: DictConfig, victim: Victim, name: str) -> DeclaredAccuracy | None:
    """Return the declared clean accuracy; None where none is, or `expected_clean=0` says that it is not to be checked.

    A published one is that of the network alone, on the images of the whole test part.

    Args:
        cfg: the checked configuration.
        name: of the data set.

    Raises:
        UserError: the declared one is no share.
    """
    own: float | None = cfg.expected_clean
    if own is not None:
        if not 0 <= own <= 1:
            raise UserError(
                f"expected_clean={own:g} must be a share of images, such as 0.89; 0 where none is to be checked"
            )
        return DeclaredAccuracy([own], f"expected_clean={own:g}") if own else None
    chosen = cfg.dataset.get("indices") is not None or (name == "imagenet" and cfg.dataset.get("limit") is not None)
    if cfg.defense.get("_target_") != BARE or chosen or len(victim.modules) != 1:
        return None
    published: dict[str, float] = getattr(victim.modules[0], "clean", {})
    if name in published:
        return DeclaredAccuracy([published[name]], f"the published {published[name]:.2%}")
    file: Any = cfg.checkpoint
    stem = "" if file in (None, "included") else Path(file).stem
    shares = published_accuracy.of_file(stem, name)
    words = " or ".join(f"{share:.2%}" for share in shares)
    return DeclaredAccuracy(shares, f"the {words} that RobustBench publishes for {stem}") if shares else None


def check_clean_accuracy(
    declared: DeclaredAccuracy | None, victim: Victim, split: Split, seed: int, device: torch.device, batch_size: int
) -> None:
    """Measure the clean accuracy where one is declared.

    Raises:
        UserError: the declared one lies outside the interval of the measured one.
    """
    if declared is None:
        return
    positions = np.unique(np.linspace(0, len(split) - 1, min(len(split), CHECKED)).round().astype(int))
    total, right = len(positions), 0
    for start in range(0, total, batch_size):
        batch = split.read(positions[start : start + batch_size].tolist())
        rng = Rng(seed, batch.ids.to(device), "declared clean accuracy")
        with torch.no_grad():
            predicted = victim.predict(batch.x.to(device), rng).argmax(1).cpu()
        right += int((predicted == batch.y.cpu()).sum())
    low, high = wilson(right, total, CONFIDENCE)
    if any(low <= share <= high for share in declared.shares):
        return
    cause = (
        "likely another normalization, size, interpolation or crop than the model was trained with, labels that are "
        "numbered or ordered otherwise, or another checkpoint"
        if right / total < min(declared.shares)
        else "likely other images than those that it was measured on, or images that it was trained on"
    )
    raise UserError(
        f"clean accuracy is {right / total:.2%} ({right} of {total}; 99.9 % interval {low:.2%} to {high:.2%}), and "
        f"{declared.words} is outside: {cause}; fix that, or check nothing by expected_clean=0"
    )

"""What a run says of its model: its name, what the user adds to it, and whether it is as accurate as declared."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import torch
from omegaconf import DictConfig

from gauntlet.data.dataset import Split
from gauntlet.errors import UserError
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.stable_names import first_name
from gauntlet.metrics.confidence import wilson
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Victim

DESCRIPTION = ("name", "paper", "authors", "link", "extra_data")
"""Keys at the root with free text about the model, without effect on the result."""

CHECKED = 2000
"""Images on which a declared clean accuracy is checked, the first of the run."""

CONFIDENCE = 0.999
"""Of the interval that the declared accuracy must lie in: one right model in a thousand is refused."""

NAMES = ("name", "model_name", "source", "path", "kind")
"""Arguments of a model that tell which one it is, the first that is there."""


def description(cfg: DictConfig) -> Manifest:
    """Return what the user says of the model, for the record; empty where nothing is said."""
    said = {key: cfg[key] for key in DESCRIPTION[1:] if cfg.get(key) is not None}
    return Manifest(description=said) if said else Manifest()  # type: ignore[typeddict-item]


def model_name(cfg: DictConfig, choices: Mapping[str, str]) -> str:
    """Return the name of the model: as the user gave it, else from its architecture and its files."""
    if cfg.get("name") is not None:
        return str(cfg.name)
    node: Any = cfg.model
    pieces = [choices.get("model", first_name(str(node["_target_"])).split(".")[-1].lower())]
    inner = node.get("network")
    if pieces[0] in ("file", "given"):
        pieces = []
    if isinstance(inner, DictConfig) and "_target_" in inner:
        pieces = [str(inner["_target_"]).split(".")[-1]]
        node = inner
    stated = next((str(node[key]) for key in NAMES if isinstance(node.get(key), str)), "")
    if stated:
        pieces.append(PurePath(stated).name)
    if cfg.checkpoint not in (None, "included"):
        pieces.append(PurePath(cfg.checkpoint).stem)
    return " ".join(dict.fromkeys(pieces))


def check_clean_accuracy(
    declared: float | None, victim: Victim, split: Split, seed: int, device: torch.device, batch_size: int
) -> None:
    """Measure the clean accuracy where one is declared.

    Raises:
        UserError: the declared one is no share, or lies outside the interval of the measured one.
    """
    if declared is None:
        return
    if not 0 < declared <= 1:
        raise UserError(f"expected_clean={declared:g} must be a share of images above 0 and at most 1, such as 0.89")
    total, right = min(len(split), CHECKED), 0
    for start in range(0, total, batch_size):
        batch = split.read(slice(start, min(start + batch_size, total)))
        rng = Rng(seed, batch.ids.to(device), "declared clean accuracy")
        with torch.no_grad():
            predicted = victim.predict(batch.x.to(device), rng).argmax(1).cpu()
        right += int((predicted == batch.y.cpu()).sum())
    low, high = wilson(right, total, CONFIDENCE)
    if low <= declared <= high:
        return
    cause = (
        "likely another normalization, size, interpolation or crop than the model was trained with, labels that are "
        "numbered or ordered otherwise, or another checkpoint"
        if right / total < declared
        else "likely other images than those that it was measured on, or images that it was trained on"
    )
    raise UserError(
        f"clean accuracy is {right / total:.2%} ({right} of {total}; 99.9 % interval {low:.2%} to {high:.2%}), and "
        f"expected_clean={declared:g} is outside: {cause}; fix that, or leave expected_clean out"
    )

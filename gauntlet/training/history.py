"""What a training leaves beside its weights: a line for each epoch, and how good the kept weights are."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gauntlet.errors import UserError
from gauntlet.system.atomic_file import write_atomically
from gauntlet.system.file_reader import read_json

HISTORY = "history.json"


@dataclass(frozen=True)
class Epoch:
    """One epoch.

    Args:
        epoch: from 1.
        loss: mean over the training samples.
        learning_rate: of the last step.
        clean, pgd: validation accuracies in [0, 1]; pgd is NaN where the selection does not need it.
        forwards, backwards: passes of a sample through the network, per training sample.
        seconds: wall time with validation, without what a killed process lost.
        fgsm: validation accuracy under one step of full length; NaN as for pgd.
        overfitting: pgd of the best epoch so far minus pgd: what robust overfitting has cost.
        catastrophic: fgsm - pgd has risen by more than 0.2 within this epoch: catastrophic overfitting.
        columns: other numbers, by name.
    """

    epoch: int
    loss: float
    learning_rate: float
    clean: float
    pgd: float
    forwards: float
    backwards: float
    seconds: float
    fgsm: float = math.nan
    overfitting: float = math.nan
    catastrophic: bool = False
    columns: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """Weights that were kept: of which epoch, and their validation accuracies."""

    epoch: int
    clean: float
    pgd: float


@dataclass(frozen=True)
class History:
    """A training; best and last are None while it runs."""

    epochs: list[Epoch] = field(default_factory=list)
    best: Kept | None = None
    last: Kept | None = None

    @property
    def seconds(self) -> float:
        return sum(epoch.seconds for epoch in self.epochs)

    def write(self, folder: Path) -> None:
        """Write `history.json`, whole or not at all."""
        text = json.dumps(_without_nan(asdict(self)), indent=1, allow_nan=False)
        write_atomically(folder / HISTORY, (text + "\n").encode())


def read(folder: Path) -> History:
    """Return the history of a folder. Raises UserError where it is missing or damaged."""
    path = folder / HISTORY
    try:
        content = read_json(path, hint="delete the folder to train anew")
        epochs = [Epoch(**_with_nan(epoch)) for epoch in content["epochs"]]
        best, last = (content[name] and Kept(**_with_nan(content[name])) for name in ("best", "last"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise UserError(f"{path} cannot be read ({cause}); delete the folder to train anew") from None
    return History(epochs, best, last)


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_nan(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _with_nan(value) if isinstance(value, dict) else math.nan if value is None else value
        for key, value in fields.items()
    }

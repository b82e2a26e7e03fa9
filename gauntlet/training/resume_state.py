"""The state of an unfinished training on disk: what a killed process needs to go on to the same weights."""

import io
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from gauntlet.errors import UserError, reason
from gauntlet.system.atomic_file import write_atomically
from gauntlet.system.lock import clear_folder, holder

STATE = "state.pt"
EXAMPLES = "examples"
"""What the names of files with examples of a training begin with; they go when it is done."""

FORMAT = 2
"""Raised when the content of a state changes; an older one is then refused."""


def save(folder: Path, fingerprint: str, state: dict[str, Any]) -> None:
    """Write the state whole or not at all. state: tensors, numbers, text, lists and dicts."""
    keep(folder / STATE, {"fingerprint": [FORMAT, fingerprint], **state})


def keep(path: Path, content: dict[str, Any]) -> None:
    """Write a file for torch.load, whole or not at all: where there is no space, what was there stays."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the state on the CPU, or None where there is none.

    Raises:
        UserError: it cannot be read, or belongs to a training with other settings.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = state.pop("fingerprint")
    except (OSError, RuntimeError, EOFError, KeyError, AttributeError, ValueError, pickle.UnpicklingError) as cause:
        raise UserError(f"{path} cannot be read ({reason(cause)}); delete it to train anew") from None
    if found != [FORMAT, fingerprint]:
        raise UserError(f"{path} belongs to a training with other settings, data or version; delete it to train anew")
    return state


def clear(folder: Path) -> None:
    """Remove the state of a training that is done; one that cannot be removed harms nobody."""
    for path in (folder / STATE, *folder.glob(f"{EXAMPLES}-*.pt")):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Remove what a killed process left beside finished weights: its state and its temporary files."""
    left = any(next(folder.glob(each), None) for each in (STATE, f"{EXAMPLES}-*.pt", ".*.tmp"))
    if left and holder(folder, "train") is None:
        with suppress(OSError):  # a cache that only reads
            clear(folder)
            clear_folder(folder)

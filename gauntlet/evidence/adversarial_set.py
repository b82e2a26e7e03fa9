"""Adversarial sets: candidates crafted without the target, on disk, to be scored on any. Imports no torch.

    <runs_dir>/_sets/<hash>/
        set.json                  what they were crafted on, by which attack, under which threat, from which data
        part-00000.safetensors    those of one chunk of samples (see `SHAPES`), with a digest over all of it

The hash covers all that crafting depends on, and nothing of a target. A part is there whole or not at all.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gauntlet.errors import UserError, reason
from gauntlet.system.atomic_file import write_atomically
from gauntlet.system.file_reader import check_regular, read_json

SET_VERSION = 1

MOST_BYTES = 16 << 30
"""Bytes of a part, at most."""

SHAPES: dict[str, tuple[str, int]] = {
    "sample": ("int64", 1), "label": ("int64", 1),
    "x": ("float32", 4), "z": ("float32", 4),  # the image, and the candidate that was made from it
    "forwards": ("int64", 1), "backwards": ("int64", 1),  # passes of the sources that it cost
    "zero_gradients": ("int64", 1), "bad_gradients": ("int64", 1),
    "clean_pred": ("int64", 2), "pred": ("int64", 2),  # what each source says of x and of z, by name
}  # fmt: skip
"""Arrays of a part -> their type and number of axes; the first axis is that of the samples."""

NEEDED = ("stage", "sources", "threat", "data", "samples", "chunk")
"""What every set.json says."""

Arrays = dict[str, NDArray[Any]]
AGAIN = "move it away, and the run that crafted it makes it anew"
_PART = re.compile(r"part-(\d{5,})\.safetensors")


@dataclass(frozen=True)
class AdversarialSet:
    """One set on disk.

    Raises:
        UserError: it is not there, is damaged, or cannot be written; the message names the file.
    """

    path: Path

    def create(self, description: Mapping[str, Any]) -> None:
        """Write set.json; the caller holds the lock of the set."""
        content = {"version": SET_VERSION, **description}
        write_atomically(self.path / "set.json", (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

    @cached_property
    def description(self) -> dict[str, Any]:
        """Return the content of set.json."""
        path = self.path / "set.json"
        try:
            content = read_json(path, hint="move the folder away and craft the set again")
        except FileNotFoundError:
            raise UserError(f"{self.path} is not an adversarial set: there is no set.json to read") from None
        if not isinstance(content, dict) or content.get("version") != SET_VERSION:
            raise UserError(f"{path} is not of version {SET_VERSION} of adversarial sets; craft the set again")
        lacking = [key for key in NEEDED if key not in content]
        if lacking:
            raise UserError(f"{path} is damaged: it lacks {lacking[0]}; move the folder away and craft the set again")
        odd = [key for key in ("sources", "data") if not isinstance(content[key], dict)]
        odd += [key for key in ("samples", "chunk") if type(content[key]) is not int or content[key] < 1]
        if odd:
            raise UserError(f"{path} is damaged: its {odd[0]} cannot be; move the folder away and craft the set again")
        return content

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """Return what the candidates were crafted on: name -> victim, weights, defense."""
        return dict(sorted(self.description["sources"].items()))

    def part_path(self, part: int) -> Path:
        return self.path / f"part-{part:05d}.safetensors"

    def present(self) -> list[int]:
        """Return the indices of the parts that are there, in order; does not open them."""
        return sorted(int(m[1]) for m in (_PART.fullmatch(path.name) for path in self.path.glob("part-*")) if m)

    def write(self, part: int, arrays: Arrays, seconds: float) -> None:
        """Commit a part. seconds: what crafting it took."""
        header = {"digest": _digest(arrays), "seconds": f"{seconds:.3f}"}
        write_atomically(
            self.part_path(part), save({name: np.ascontiguousarray(arrays[name]) for name in SHAPES}, header)
        )

    def read(self, part: int) -> Arrays:
        """Return the arrays of a part, all as `SHAPES` says, unchanged since they were written."""
        path = self.part_path(part)
        try:
            check_regular(path, MOST_BYTES, AGAIN)
            with safe_open(path, framework="numpy") as file:
                arrays: Arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                digest = (file.metadata() or {}).get("digest")
        except (SafetensorError, OSError, ValueError) as cause:
            raise _damaged(path, reason(cause)) from None
        count = len(arrays["sample"]) if "sample" in arrays else 0
        for name, (kind, axes) in SHAPES.items():
            if name not in arrays or str(arrays[name].dtype) != kind or arrays[name].ndim != axes:
                raise _damaged(path, f"{name} is not {kind} of {axes} axes")
            if len(arrays[name]) != count:
                raise _damaged(path, f"{name} has {len(arrays[name])} entries for {count} samples")
        if digest != _digest(arrays):
            raise _damaged(path, "its content does not have its digest")
        return arrays

    def samples(self, part: int) -> NDArray[np.int64]:
        """Return the ids of the samples of a part, without reading the rest."""
        try:
            check_regular(self.part_path(part), MOST_BYTES, AGAIN)
            with safe_open(self.part_path(part), framework="numpy") as file:
                ids: NDArray[np.int64] = file.get_tensor("sample")
                return ids
        except (SafetensorError, OSError, ValueError) as cause:
            raise _damaged(self.part_path(part), reason(cause)) from None

    def digest(self) -> str:
        """Return SHA-256 over description and parts, as `sha256:<hex>`: two sets with the same one score the same."""
        parts = {str(part): _digest(self.read(part)) for part in self.present()}
        described = {key: self.description[key] for key in ("stage", "sources", "threat", "data")}
        return f"sha256:{hashlib.sha256(json.dumps([described, parts], sort_keys=True).encode()).hexdigest()}"


class Lookup:
    """Finds samples in a set that may still grow; the part that was used last stays in memory."""

    def __init__(self, source: AdversarialSet) -> None:
        self.source = source
        self._part_of: dict[int, int] = {}
        self._known: set[int] = set()
        self._open: tuple[int, Arrays] | None = None

    def find(self, ids: NDArray[np.int64]) -> Arrays:
        """Return the rows of these samples, in their order. Raises UserError where the set lacks one."""
        if any(int(i) not in self._part_of for i in ids):
            self._scan()
        lacking = [int(i) for i in ids if int(i) not in self._part_of]
        if lacking:
            raise UserError(
                f"{self.source.path} lacks sample {lacking[0]} and {len(lacking) - 1} more of those to score; "
                "score it with the selection of data that it was crafted on (dataset.limit and the like)"
            )
        parts = np.array([self._part_of[int(i)] for i in ids], np.int64)
        pieces, order = [], []
        for part in np.unique(parts):
            mine = np.flatnonzero(parts == part)
            arrays = self._read(int(part))
            place = {int(sample): row for row, sample in enumerate(arrays["sample"])}
            at = [place[int(ids[i])] for i in mine]
            pieces.append({name: value[at] for name, value in arrays.items()})
            order.append(mine)
        if not pieces:
            return {name: np.zeros([0] * axes, kind) for name, (kind, axes) in SHAPES.items()}
        back = np.argsort(np.concatenate(order), kind="stable")
        return {name: np.concatenate([piece[name] for piece in pieces])[back] for name in SHAPES}

    def _scan(self) -> None:
        for part in self.source.present():
            if part not in self._known:
                self._part_of |= dict.fromkeys((int(i) for i in self.source.samples(part)), part)
                self._known.add(part)

    def _read(self, part: int) -> Arrays:
        if self._open is None or self._open[0] != part:
            self._open = (part, self.source.read(part))
        return self._open[1]


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(SHAPES):
        value = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {value.dtype} {list(value.shape)};".encode())
        digest.update(value.tobytes())
    return f"sha256:{digest.hexdigest()}"


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}); {AGAIN}")

"""Which adversarial examples a run stores, and how much room that may take. Imports no torch."""

import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gauntlet.errors import UserError
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE

ROW = 64
"""Bytes of one row of the records, at most (benchmarks/cluster/million.md has those of a real run)."""

PART = 12 << 10
"""Bytes of a part beside its rows."""

TOLD = 10**8
"""Bytes from which on a run says how much room it may take."""

_FIRST = re.compile(r"first ([1-9][0-9]{0,17})")


@dataclass(frozen=True)
class StoragePolicy:
    """A policy for adversarial examples. Every one that is stored has a row, and is stored as it was judged.

    Attributes:
        text: "all": every candidate that the judge took, also those that fooled nobody. "broken": those that fooled the
            defense. "first N": these, of the first N images of the split alone. "none".
        images: how many images of the split it is about, from the first on; infinite: all.
    """

    text: str
    images: float

    @classmethod
    def of(cls, text: str) -> "StoragePolicy":
        """Read a policy as it is typed. Raises UserError for anything else."""
        if text in ("all", "broken"):
            return cls(text, math.inf)
        if text == "none":
            return cls(text, 0)
        found = _FIRST.fullmatch(text)
        if found is None:
            raise UserError(f"runtime.keep={text} is unknown; choose all, broken, 'first N' (of the images) or none")
        return cls(text, int(found[1]))

    @classmethod
    def of_run(cls, manifest: Manifest) -> "StoragePolicy":
        """Return the policy of a run, as its manifest says."""
        return cls.of(manifest.get("keep") or manifest["config"]["runtime"].get("keep", "broken"))

    @property
    def every(self) -> bool:
        """Return whether candidates that fooled nobody are stored too."""
        return self.text == "all"

    def covers(self, other: "StoragePolicy") -> bool:
        """Return whether it stores all that the other one does."""
        return (self.images, self.every) >= (other.images, other.every)

    def of_chunk(self, ids: NDArray[np.int64], start: int) -> NDArray[np.int64]:
        """Return those samples of a chunk that it is about; the chunk starts at this position of the split."""
        return ids[: int(min(max(self.images - start, 0), len(ids)))]

    def due(self, table: pa.Table, stages: Sequence[str], ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the examples that belong to the rows of a chunk, int64 [m, 2]: sample, and stage as stored.

        Args:
            stages: of the run, "clean" first.
            ids: samples of the chunk that the policy is about.
        """
        wanted = pc.and_(pc.not_equal(table["stage"], CLEAN_STAGE), pc.is_null(table["error"]))
        rows = table.filter(wanted if self.every else pc.and_(wanted, table["broken"]))
        sample = rows["sample"].to_numpy()
        stage = pc.fill_null(pc.index_in(rows["stage"], value_set=pa.array(stages[1:], pa.string())), -1).to_numpy()
        mine = np.isin(sample, ids)
        return np.stack([sample[mine], stage[mine].astype(np.int64)], 1)


def stored(run: RunFolder, chunk: int, due: NDArray[np.int64], ids: NDArray[np.int64]) -> bool:
    """Return whether a chunk's file is sound and has the examples that belong there.

    Args:
        due: by `StoragePolicy.due`.
        ids: samples of the chunk that the policy is about; without any there need be no file.

    Raises:
        UserError: the file is damaged, or belongs to another run or chunk.
    """
    try:
        arrays = run.read_examples(chunk)
    except FileNotFoundError:
        return not len(ids)
    if not {"sample", "stage"} <= arrays.keys() or arrays["sample"].shape != arrays["stage"].shape:
        return False
    there = np.stack([arrays[name].astype(np.int64) for name in ("sample", "stage")], 1)
    return set(map(tuple, due.tolist())) <= set(map(tuple, there.tolist()))


@dataclass(frozen=True)
class DiskEstimate:
    """What a run may still write, in bytes, at most."""

    records: int
    examples: int

    @classmethod
    def of(cls, keep: StoragePolicy, manifest: Manifest, missing: Sequence[int], pixels: int) -> "DiskEstimate":
        """Args: missing: chunks that are not there yet; pixels: numbers in one image."""
        size, samples = manifest["chunk"], manifest["dataset"]["samples"]
        counts = [max(0, min(size, samples - chunk * size)) for chunk in missing]
        about = sum(max(0, min(n, keep.images - chunk * size)) for chunk, n in zip(missing, counts, strict=True))
        attacks = len(manifest["stages"]) - 1
        once = manifest.get("coverage", "standing") == "standing"  # a broken sample is attacked no more
        each = 1 if once and not keep.every else attacks
        rows = sum(counts) * (1 + attacks) * ROW
        return cls(rows + len(counts) * PART, int(about) * each * (2 * 4 * pixels + 10))

    @property
    def total(self) -> int:
        return self.records + self.examples

    def check(self, folder: Path, keep: StoragePolicy) -> str | None:
        """Return what to say before the run, if it is worth saying.

        Raises:
            UserError: the disk has less room.
        """
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(place).free
        text = f"up to {size(self.total)} ({size(self.examples)} of adversarial examples, runtime.keep={keep.text})"
        if self.total <= free:
            return f"this run may write {text}; {size(free)} are free" if self.total >= TOLD else None
        fewer = "use runtime.keep='first N' or none, " if self.examples and self.records <= free else "free some, "
        raise UserError(f"{folder} has {size(free)} free, this run may write {text}; {fewer}or another runs_dir=DIR")


def size(count: int) -> str:
    """Return bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"

"""The loop over the chunks of a shard: what is there and sound is left, the rest is done, each chunk whole."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gauntlet.config.runtime import Runtime
from gauntlet.data.chunks import chunk_positions, chunks_of
from gauntlet.data.dataset import Batch, Split
from gauntlet.data.prefetch import batches
from gauntlet.errors import UserError
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.jobs.model_description import described_anew
from gauntlet.jobs.run_identity import refuse_another
from gauntlet.system.lock import clear_folder, sole_owner
from gauntlet.system.process import give_back
from gauntlet.system.progress import Bar

log = logging.getLogger(__name__)

Worker = Callable[[int, slice, Batch, Bar], None]
"""Does one chunk and writes its records: number, positions in the split, images, bar."""


@dataclass(frozen=True)
class ShardOfRun:
    """The chunks of a run that fall to this process.

    Attributes:
        size: samples per chunk, as the run began: who goes on with it cannot cut it otherwise.
    """

    samples: int
    size: int
    shards: int
    shard: int

    @classmethod
    def of(cls, manifest: Manifest, runtime: Runtime) -> "ShardOfRun":
        """Return the share of this process in a run on disk."""
        return cls(manifest["dataset"]["samples"], manifest["chunk"], runtime.shards, runtime.shard)

    @property
    def chunks(self) -> list[int]:
        """Return the numbers of the chunks."""
        return list(chunks_of(self.samples, self.size, self.shards, self.shard))

    def positions(self, chunk: int) -> slice:
        """Return the positions of a chunk in the split."""
        return chunk_positions(self.samples, self.size, chunk)

    def images(self, chunks: Sequence[int]) -> int:
        """Return how many images these chunks hold."""
        return sum(len(range(self.samples)[self.positions(chunk)]) for chunk in chunks)


class Watch(Protocol):
    """Looks at a run while it is made."""

    def took(self, chunks: Iterable[int]) -> None:
        """Count more chunks."""

    def enough(self) -> bool:
        """Return whether the run may end here."""


@contextmanager
def held_shard(run: RunFolder, runtime: Runtime, mine: Callable[[], Manifest]) -> Iterator[Manifest]:
    """Hold the lock of this process's shard, and give the manifest as it is on disk.

    Args:
        mine: makes the manifest with which this process would begin the run; called with the lock held.

    Raises:
        UserError: another process works on the shard, the folder cannot be written, or it holds another run.
    """
    if run.manifest_path.exists() and not os.access(run.path, os.W_OK):
        manifest = run.manifest()
        if manifest["status"] == "done":  # what is finished is reported, also where nothing can be written
            refuse_another(manifest, mine(), run.path)
            yield manifest
            return
    name = f"run-{runtime.shard}-of-{runtime.shards}"
    with sole_owner(run.path, name, "; wait for it, or split the work with runtime.shards"):
        clear_folder(run.path)
        first = mine()
        manifest = run.create(first)
        refuse_another(manifest, first, run.path)
        yield described_anew(run, manifest, first)


@dataclass(frozen=True)
class ProgressUnits:
    """What the progress bar says, and what it counts."""

    title: str
    unit: str


def run_chunks(
    run: RunFolder,
    split: Split,
    share: ShardOfRun,
    runtime: Runtime,
    counted: ProgressUnits,
    fit: Callable[[int, pa.Table], bool],
    begin: Callable[[list[int]], Worker],
    watch: Watch | None = None,
) -> int:
    """Do the chunks of this shard that are not there yet, or not sound; return how many.

    Args:
        fit: whether a chunk whose records can be read and hold no error has all that belongs to it.
        begin: called once with the chunks to do, before any is done, if there is one; returns what does them.
        watch: may end the run before its last chunk.

    Raises:
        UserError: the disk is full, or what `begin` and the worker raise; finished chunks stay.
    """
    present = run.present()
    ready = [
        chunk
        for chunk in share.chunks
        if chunk in present and _sound(run, chunk, split.ids[share.positions(chunk)], fit)
    ]
    missing = [chunk for chunk in share.chunks if chunk not in ready]
    if watch:
        watch.took(ready)
    if not missing or (watch and watch.enough()):
        return 0
    work = begin(missing)
    positions, done = [share.positions(chunk) for chunk in missing], 0
    with Bar(
        total=share.images(share.chunks),
        initial=share.images(ready),
        unit=counted.unit,
        shown=runtime.progress,
        desc=counted.title,
    ) as bar:
        for chunk, at, batch in zip(missing, positions, batches(split, positions, runtime.workers), strict=True):
            work(chunk, at, batch, bar)
            give_back()
            done += 1
            if watch:
                watch.took([chunk])
                if watch.enough():
                    break
    return done


def _sound(run: RunFolder, chunk: int, ids: NDArray[np.int64], fit: Callable[[int, pa.Table], bool]) -> bool:
    """Return whether a part has these samples, holds no error and fits; else it is set aside and done again."""
    try:
        table = run.read_part(chunk)
        run.check_samples(chunk, table, ids)
        errors = table["error"]
        if errors.null_count == len(errors) and fit(chunk, table):
            return True
    except UserError as cause:
        log.warning("%s", cause)
    log.warning("doing chunk %d again; its old records are now %s", chunk, run.set_aside(chunk).name)
    return False

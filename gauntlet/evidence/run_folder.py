"""The evidence: one row per (sample, stage) in Parquet parts, one `run.json` per run. Imports no torch.

A run folder holds

    run.json                            the manifest (see `Manifest`)
    records/part-00000.parquet          the rows of chunk 0, whole or absent
    adversarial/part-00000.safetensors  adversarial examples of chunk 0, float32, as they were judged; or attributions
    run-0-of-1.lock, .owner             held by the process that writes (see `gauntlet.system.lock`; not evidence)

A part is written under a temporary name, synced and renamed, so that `kill -9` leaves a whole part or none. The
adversarial examples of a chunk are renamed before its records: a chunk counts as done once its records are there.
"""

import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gauntlet.errors import UserError
from gauntlet.evidence.manifest import Manifest, parse
from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.evidence.sealed_part import (
    Arrays,
    DamagedPart,
    decode_examples,
    decode_rows,
    encode_examples,
    encode_rows,
)
from gauntlet.evidence.typed_json import Misfit
from gauntlet.system.atomic_file import _write_synced, _writing, write_atomically
from gauntlet.system.file_reader import read_json, read_regular
from gauntlet.system.leftovers import temporary
from gauntlet.system.lock import Owner, holder

MOST_BYTES = 16 << 30
"""Bytes of a part, at most."""

MAPS = "attribution"
"""Stage under which attributions are stored, with their images: what a certificate is about, no adversarial example."""

MOVE = "move the folder away and run again"
REDO = "run the same command again to redo it"
_PART = re.compile(r"part-(\d{5,})\.parquet")


@dataclass(frozen=True)
class RunFolder:
    """Reads and writes one run folder.

    Raises:
        UserError: the folder cannot be written, the disk is full, or a file is damaged; the message names the file.
    """

    path: Path

    @property
    def manifest_path(self) -> Path:
        return self.path / "run.json"

    def part_path(self, chunk: int) -> Path:
        return self.path / "records" / f"part-{chunk:05d}.parquet"

    def adversarial_path(self, chunk: int) -> Path:
        return self.path / "adversarial" / f"part-{chunk:05d}.safetensors"

    def create(self, manifest: Manifest) -> Manifest:
        """Write the manifest unless another process was first; return the one that stands on disk."""
        if self.manifest_path.exists():  # the folder may be one that only reads
            return self.manifest()
        data = _encode(manifest)
        with _writing(self.manifest_path):
            self.manifest_path.parent.mkdir(parents=True, exist_ok=True)
            scratch = temporary(self.manifest_path)
            try:
                _write_synced(scratch, data)
                os.link(scratch, self.manifest_path)  # fails if it exists: the first process wins
            except FileExistsError:
                pass
            finally:
                scratch.unlink(missing_ok=True)
        return self.manifest()

    def update(self, manifest: Manifest) -> None:
        """Replace the manifest as a whole."""
        write_atomically(self.manifest_path, _encode(manifest))

    def manifest(self) -> Manifest:
        """Return the content of `run.json`, all of it of the types and within the bounds of `Manifest`.

        Raises:
            UserError: there is none, or it is damaged; the message names the field.
        """
        try:
            return parse(read_json(self.manifest_path, hint=MOVE))
        except FileNotFoundError:
            raise UserError(f"{self.path} is not a run folder: it has no run.json") from None
        except Misfit as cause:
            raise UserError(f"{self.manifest_path} cannot be used: {cause}; {MOVE}") from None

    def present(self) -> set[int]:
        """Return the indices of the chunks whose records are there. Does not open them; files of other names do not
        count.
        """
        named = (_PART.fullmatch(path.name) for path in self.path.glob("records/part-*.parquet"))
        chunks = {int(match[1]) for match in named if match}
        return {chunk for chunk in chunks if self.part_path(chunk).exists()}

    def write_part(self, chunk: int, rows: pa.Table, seconds: dict[str, float]) -> None:
        """Commit the records of one chunk. seconds: per stage, beside the rows, which are the same in every run."""
        write_atomically(self.part_path(chunk), encode_rows(rows, self._identity(), chunk, seconds))

    def read_part(self, chunk: int) -> pa.Table:
        """Return the records of a chunk.

        Raises:
            UserError: the file is damaged, or belongs to another run or chunk.
        """
        return self._decoded(chunk)[0]

    def read_seconds(self, chunk: int) -> dict[str, float]:
        """Return the seconds per stage that the chunk took; exceptions are those of `read_part`."""
        return self._decoded(chunk)[1]

    def check_samples(self, chunk: int, table: pa.Table, ids: NDArray[np.int64]) -> None:
        """Compare the samples of a chunk's records with those that the data set has there, in any order.

        Raises:
            UserError: one is missing, or belongs elsewhere.
        """
        own = table.filter(pc.equal(table["stage"], CLEAN_STAGE)) if "stage" in table.column_names else table
        if sorted(own["sample"].to_pylist()) != sorted(ids.tolist()):
            raise UserError(f"{self.part_path(chunk)} does not hold the {len(ids)} samples of its chunk; {REDO}")

    def write_examples(self, chunk: int, arrays: Arrays, stages: list[str]) -> None:
        """Commit the adversarial examples of a chunk, before its records. stages: without "clean"."""
        write_atomically(self.adversarial_path(chunk), encode_examples(arrays, self._identity(), chunk, stages))

    def read_examples(self, chunk: int) -> Arrays:
        """Return the stored adversarial examples of a chunk; exceptions are those of `read_staged_examples`."""
        return self.read_staged_examples(chunk)[0]

    def read_staged_examples(self, chunk: int) -> tuple[Arrays, list[str]]:
        """Return the stored adversarial examples of a chunk, and the stages that their numbers stand for.

        Raises:
            FileNotFoundError: there is no file of them.
            UserError: it is damaged, or belongs to another run or chunk.
        """
        path = self.adversarial_path(chunk)
        try:
            return decode_examples(read_regular(path, MOST_BYTES, REDO), self._identity(), chunk)
        except DamagedPart as cause:
            raise UserError(f"{path} is damaged ({cause}); {REDO}") from None

    def _decoded(self, chunk: int) -> tuple[pa.Table, dict[str, float]]:
        path = self.part_path(chunk)
        try:
            return decode_rows(read_regular(path, MOST_BYTES, REDO), self._identity(), chunk)
        except FileNotFoundError:
            raise UserError(f"{path} is not there; {REDO}") from None
        except DamagedPart as cause:
            raise UserError(f"{path} is damaged ({cause}); {REDO}") from None

    def _identity(self) -> str:
        """Return what binds parts to this run; empty where no manifest says it."""
        try:
            return self.manifest()["config_hash"]
        except UserError:
            return ""

    def read_parts(self) -> Iterator[pa.Table]:
        """Yield the records, one chunk after the other, in the order of their chunks."""
        for chunk in sorted(self.present()):
            yield self.read_part(chunk)

    def at_work(self) -> dict[str, Owner]:
        """Return the locks of its shards that live processes hold, `run-0-of-1` and so on, and who holds them."""
        names = sorted((path.stem for path in self.path.glob("run-*.lock")), key=_numbers)
        return {name: owner for name in names if (owner := holder(self.path, name))}

    def set_aside(self, chunk: int) -> Path:
        """Rename a damaged part, and its adversarial examples, so that its chunk is done again; nothing is deleted."""
        both = self.part_path(chunk), self.adversarial_path(chunk)
        ends = (f".{number}.damaged" if number else ".damaged" for number in itertools.count())
        end = next(end for end in ends if not any(path.with_suffix(end).exists() for path in both))
        for path in filter(Path.exists, both):  # the records first: without them the chunk is not done
            with _writing(path):
                path.replace(path.with_suffix(end))
        return both[0].with_suffix(end)


def find_runs(*roots: Path) -> list[RunFolder]:
    """Return every run folder below these folders, sorted by path, links to folders followed.

    Folders whose name starts with an underscore or a dot are left out, and so is a folder that was seen under another
    name of a link.
    """
    found: dict[str, Path] = {}
    seen = set()
    for folder, below, files in chain.from_iterable(os.walk(root, followlinks=True) for root in roots):
        real = os.path.realpath(folder)
        below[:] = sorted(name for name in below if not name.startswith(("_", ".")))
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        if "run.json" in files or "run.json" in below:
            found[real] = Path(folder)
            below.clear()
    return sorted(map(RunFolder, found.values()), key=lambda run: run.path)


def _numbers(name: str) -> list[int]:
    return [int(word) for word in name.split("-") if word.isdigit()]


def _encode(manifest: Manifest) -> bytes:
    return (json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

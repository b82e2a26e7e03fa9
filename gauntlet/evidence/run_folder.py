"""The evidence: one row per (sample, stage) in Parquet parts, one `run.json` per run. Imports no torch.

A run folder holds

    run.json                          the manifest (see `Manifest`)
    records/part-00000.parquet        the rows of chunk 0, whole or absent
    adversarial/part-00000.safetensors  adversarial examples of chunk 0 (`gauntlet.evidence.example_storage`), float32, as they were judged
    run-0-of-1.lock, .owner           held by the process that writes (see `gauntlet.system.lock`; not evidence)

A part is written under a temporary name, synced and renamed, so that `kill -9` leaves a whole part or none. The
adversarial examples of a chunk are renamed before its records: a chunk counts as done once its records are there.
"""

import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gauntlet.errors import UserError, reason
from gauntlet.evidence.manifest import REQUIRED, Manifest
from gauntlet.evidence.schema import ATTACK_SCHEMA, CERTIFICATE_SCHEMA, SCHEMA_VERSION, _schema
from gauntlet.system.atomic_file import _scratch, _write_synced, _writing, write_atomically

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
        data = _encode(manifest)
        with _writing(self.manifest_path):
            self.manifest_path.parent.mkdir(parents=True, exist_ok=True)
            scratch = _scratch(self.manifest_path)
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
        try:
            content = json.loads(self.manifest_path.read_text())
        except FileNotFoundError:
            raise UserError(f"{self.path} is not a run folder: it has no run.json") from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise UserError(f"{self.manifest_path} is damaged; move the folder away and run again") from None
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{self.manifest_path} has schema version {version}, this program reads {SCHEMA_VERSION}; "
                "use the version of gauntlet that wrote it, or run again"
            )
        unfit = [key for key, kind in REQUIRED.items() if not isinstance(content.get(key), kind)]
        if unfit:
            raise UserError(
                f"{self.manifest_path} is damaged: it lacks a proper {unfit[0]}; move the folder away and run again"
            )
        manifest: Manifest = content
        return manifest

    def present(self) -> set[int]:
        """Indices of the chunks whose records are there. Does not open them; files of other names do not count."""
        named = (_PART.fullmatch(path.name) for path in self.path.glob("records/part-*.parquet"))
        chunks = {int(match[1]) for match in named if match}
        return {chunk for chunk in chunks if self.part_path(chunk).exists()}

    def write_part(self, chunk: int, rows: pa.Table, seconds: dict[str, float]) -> None:
        """Commit the records of one chunk. seconds: per stage, beside the rows, which are the same in every run."""
        sink = pa.BufferOutputStream()
        schema = _schema(rows.column_names)
        table = rows.select(schema.names).cast(schema).replace_schema_metadata({"seconds": json.dumps(seconds)})
        pq.write_table(table, sink, compression="zstd")
        write_atomically(self.part_path(chunk), sink.getvalue().to_pybytes())

    def read_seconds(self, chunk: int) -> dict[str, float]:
        """Seconds per stage that the chunk took."""
        metadata = pq.read_schema(self.part_path(chunk)).metadata or {}
        seconds: dict[str, float] = json.loads(metadata.get(b"seconds", b"{}"))
        return seconds

    def read_part(self, chunk: int) -> pa.Table:
        path = self.part_path(chunk)
        try:
            table = pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(use_threads=False)  # a third of read_table
        except (pa.ArrowInvalid, pa.ArrowException, OSError, EOFError) as cause:
            raise UserError(f"{path} is damaged ({reason(cause)}); run the same command again to redo it") from None
        wanted = CERTIFICATE_SCHEMA if "radius" in table.column_names else ATTACK_SCHEMA
        missing = [name for name in wanted.names if name not in table.column_names]
        if missing:
            raise UserError(f"{path} lacks the columns {', '.join(missing)}; run the same command again to redo it")
        schema = _schema(table.column_names)
        return table.select(schema.names).cast(schema)

    def read_parts(self) -> Iterator[pa.Table]:
        """The records, one chunk after the other, in the order of their chunks."""
        for chunk in sorted(self.present()):
            yield self.read_part(chunk)

    def set_aside(self, chunk: int) -> Path:
        """Rename a damaged part, and its adversarial examples, so that its chunk is done again; nothing is deleted."""
        both = self.part_path(chunk), self.adversarial_path(chunk)
        ends = (f".{number}.damaged" if number else ".damaged" for number in itertools.count())
        end = next(end for end in ends if not any(path.with_suffix(end).exists() for path in both))
        for path in filter(Path.exists, both):  # the records first: without them the chunk is not done
            with _writing(path):
                path.replace(path.with_suffix(end))
        return both[0].with_suffix(end)


def find_runs(root: Path) -> list[RunFolder]:
    """Every run folder below `root`, sorted by path. Folders whose name starts with an underscore are left out."""
    found = []
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith(("_", ".")))
        if "run.json" in files:
            found.append(RunFolder(Path(folder)))
            below.clear()
    return sorted(found, key=lambda run: run.path)


def _encode(manifest: Manifest) -> bytes:
    return (json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

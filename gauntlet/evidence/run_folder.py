"""The evidence: one row per (sample, stage) in Parquet parts, one `run.json` per run. Imports no torch.

A run folder holds

    run.json                          the manifest (see `Manifest`)
    records/part-00000.parquet        the rows of chunk 0, whole or absent
    adversarial/part-00000.safetensors  adversarial examples of chunk 0 (`harness.keep`), float32, as they were judged
    run-0-of-1.lock, .owner           held by the process that writes (see `harness.ownership`; not evidence)

A part is written under a temporary name, synced and renamed, so that `kill -9` leaves a whole part or none. The
adversarial examples of a chunk are renamed before its records: a chunk counts as done once its records are there.
"""

import errno
import itertools
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from harness.certificates import CERTIFICATE_SCHEMA
from harness.errors import UserError

SCHEMA_VERSION = 1

CLEAN_STAGE = "clean"
"""Every sample has one row of this stage: the prediction on the unperturbed image."""

REQUIRED: dict[str, type] = {
    "status": str, "kind": str, "name": dict, "command": str, "config": dict, "config_hash": str, "victim": str,
    "threat": dict, "heads": str, "dataset": dict, "weights": dict, "card": dict, "stages": list, "chunk": int,
    "chunks": int, "device": str,
}  # fmt: skip
"""What every manifest holds from its first moment on."""

_PART = re.compile(r"part-(\d{5,})\.parquet")

ATTACK_SCHEMA = pa.schema(
    [
        pa.field("sample", pa.int64(), nullable=False),  # stable id of the image in its split
        pa.field("stage", pa.string(), nullable=False),  # "clean", or "<attack>/<head>", such as "pma/true"
        pa.field("label", pa.int32(), nullable=False),
        pa.field("clean_pred", pa.int32(), nullable=False),
        pa.field("pred", pa.int32(), nullable=False),  # prediction on this stage's candidate; -1 where there is none
        pa.field("broken", pa.bool_(), nullable=False),  # clean row: misclassified as it is
        pa.field("distance", pa.float64(), nullable=False),  # to the clean image, in the norm of the threat
        pa.field("margin", pa.float32(), nullable=False),  # true score minus best other score of the candidate
        pa.field("forwards", pa.int64(), nullable=False),  # forward passes of the defended pipeline for this sample
        pa.field("backwards", pa.int64(), nullable=False),
        pa.field("zero_gradients", pa.int32(), nullable=False),  # steps at which the whole input gradient was zero
        pa.field("bad_gradients", pa.int32(), nullable=False),  # steps with a NaN or infinite entry in the gradient
        pa.field("error", pa.string()),  # null, or why this candidate does not count; such a run is never ranked
    ]
)

RANDOM_SCHEMA = pa.schema([*ATTACK_SCHEMA, *(pa.field(name, pa.float32()) for name in ("wrong_share", "fresh_share"))])
"""Of a randomised defense, whose `broken` says that the majority is wrong. `wrong_share` of the draws are wrong that
choose the worst candidate of a sample, `fresh_share` of the verdicts in others that say how bad it is: of those draws,
or of a vote 0 or 1. Null in rows with an error. A deterministic defense has records without these columns."""

FOOLED = pa.field("fooled", pa.int64())  # of a mixture whose shares are exact: its wrong members; bit i is member i

PHASE = pa.field("phase", pa.string())
"""The part of an attack that its last pass on the sample belonged to; null where the attack names no parts."""


class Cost(TypedDict):
    """Totals of one stage."""

    attacked: int
    forwards: int
    backwards: int
    seconds: float


class Manifest(TypedDict, total=False):
    """`run.json`. Values are plain JSON; every digest reads `sha256:<hex>`."""

    schema_version: int
    status: str  # running | done | failed; done = every chunk is there and no row has an error
    kind: str  # attack | certificate
    name: dict[str, str]  # dataset, threat, defense, attack: the names in the path of the folder
    command: str  # what the user typed, as it can be pasted
    config: dict[str, Any]  # resolved
    config_hash: str  # of what changes the answer: the last folder of the path
    victim: str  # hash of the defense, its models and their weights: runs with the same one attack the same model
    bare: str  # randomised defenses only: hash of the defense whatever its protocol, as certificates have it
    threat: dict[str, Any]  # norm, eps (text as given, "8/255"), radius (null: unbounded), low, high
    heads: str  # declared | true (true: attacked through its deployed forward only, never ranked)
    access: str  # what the attacker was given: gradient (default) | score | decision; only the first is ever ranked
    dataset: dict[str, Any]  # name, digest, selection, samples, classes, shape
    weights: dict[str, str]  # part of the defense -> digest
    card: dict[str, Any]  # claims, extra_data, cost in forward equivalents, parameters, randomized, deviations
    stages: list[str]  # in the order in which they run, "clean" first
    coverage: str  # which samples a stage attacks: standing (default) | correct | all (see `harness.evaluate.Coverage`)
    protocol: dict[str, Any]  # rule and draws (0: exact, without draws), of a randomised defense only
    members: list[list[Any]]  # of a mixture: head and probability of each member
    draws: dict[str, dict[str, Any]]  # random heads: draws per gradient, and with how many they were found to agree
    fidelity: dict[str, dict[str, int]]  # surrogate head -> how it does on the first clean images (`harness.fidelity`)
    sets: dict[str, dict[str, Any]]  # transfer runs: stage -> its adversarial set, and the sources crafted on
    certificate: dict[str, Any]  # certificates only: certifier, kind, confidence, and whether it saw labels
    fit: dict[str, dict[str, Any]]  # stage -> digest, file and cost of a perturbation that was fitted to train images
    chunk: int  # samples per chunk
    chunks: int
    keep: str  # which adversarial examples are stored: all | broken (default) | first N | none (see `harness.keep`)
    seed: int
    commit: str
    dirty: bool
    versions: dict[str, str]
    device: str
    made_by: list[dict[str, Any]]  # commit, dirty, versions and device of each process that added parts
    started: str  # ISO 8601, UTC
    finished: str
    cost: dict[str, Cost]  # per stage
    flags: list[dict[str, str]]  # red flags: {"name", "detail"}
    failures: list[str]  # distinct error texts


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
            raise UserError(
                f"{path} is damaged ({_first_line(cause)}); run the same command again to redo it"
            ) from None
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


def rows(columns: dict[str, Sequence[Any]]) -> pa.Table:
    """A table of the schema that has these columns, of equal length."""
    return pa.table(columns, schema=_schema(columns))


def _schema(names: Iterable[str]) -> pa.Schema:
    there = set(names)
    if there.issuperset(CERTIFICATE_SCHEMA.names):
        return CERTIFICATE_SCHEMA
    schema = RANDOM_SCHEMA if there.issuperset(RANDOM_SCHEMA.names) else ATTACK_SCHEMA
    return pa.schema([*schema, *(extra for extra in (FOOLED, PHASE) if extra.name in there)])


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = _scratch(path)
        try:
            _write_synced(scratch, data)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


def _encode(manifest: Manifest) -> bytes:
    return (json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _scratch(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _first_line(cause: BaseException) -> str:
    return (str(cause) or type(cause).__name__).splitlines()[0]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(f"no space left for {path}; free some, then run the same command to go on") from None
        raise UserError(f"cannot write {path} ({_first_line(cause)}); choose another place with runs_dir=DIR") from None

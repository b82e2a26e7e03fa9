"""The bytes of a part: rows or stored examples, bound to their run and chunk by a digest in the file's metadata.

The digest covers the values, the run's `config_hash`, the chunk and the other metadata, so that a flipped bit, a part
of another run or chunk, and a part with fewer rows are found. Parts of version 0.1.0 have none and are taken as they
are. Imports no torch.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gauntlet.errors import reason
from gauntlet.evidence.schema import ATTACK_SCHEMA, CERTIFICATE_SCHEMA, _schema

MOST_ROWS = 20_000_000
"""Rows of a part; a chunk of 50,000 images has 3 million after the longest suite."""

Arrays = dict[str, NDArray[Any]]


class DamagedPart(ValueError):
    """A part that is not as it was written, or belongs elsewhere; in words."""


def encode_rows(table: pa.Table, run: str, chunk: int, seconds: Mapping[str, float]) -> bytes:
    """Return the Parquet file of a chunk's rows. seconds: per stage, beside the rows, which every run has alike."""
    schema = _schema(table.column_names)
    table = table.select(schema.names).cast(schema)
    about = {"run": run, "chunk": str(chunk), "seconds": json.dumps(seconds)}
    about["digest"] = _digest(about, _column_bytes(table))
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(about), sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def decode_rows(data: bytes, run: str, chunk: int) -> tuple[pa.Table, dict[str, float]]:
    """Return the rows of a Parquet file and the seconds of its stages.

    Args:
        run: `config_hash` of the run that it must belong to; empty: of any.

    Raises:
        DamagedPart: the file is cut, altered, of another kind, or of another run or chunk.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        if file.metadata.num_rows > MOST_ROWS:
            raise DamagedPart(f"it has {file.metadata.num_rows} rows")
        found = file.read(use_threads=False)  # a third of the time of read_table
        about = {key.decode(): value.decode() for key, value in (found.schema.metadata or {}).items()}
        table = _as_declared(found)
        _check_seal(about, _column_bytes(table), run, chunk)
        return table, _seconds(about.get("seconds", "{}"))
    except DamagedPart:
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError, TypeError, KeyError, MemoryError, OverflowError) as cause:
        raise DamagedPart(reason(cause)) from None


def encode_examples(arrays: Arrays, run: str, chunk: int, stages: list[str]) -> bytes:
    """Return the safetensors file of a chunk's adversarial examples. stages: what their numbers stand for."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    about = {"run": run, "chunk": str(chunk), "stages": json.dumps(stages)}
    about["digest"] = _digest(about, _array_bytes(arrays))
    data = save(arrays, about)
    size = int.from_bytes(data[:8], "little")  # the library writes metadata in an order by chance
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + bytes(data[8 + size :])


def decode_examples(data: bytes, run: str, chunk: int) -> tuple[Arrays, list[str]]:
    """Return the arrays of a safetensors file, and its stages; arguments and exceptions are those of `decode_rows`."""
    try:
        arrays = load(data)
        size = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + size]).get("__metadata__", {})
        _check_seal(about, _array_bytes(arrays), run, chunk)
        stages = json.loads(about.get("stages", "[]"))
    except DamagedPart:
        raise
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError, MemoryError) as cause:
        raise DamagedPart(reason(cause)) from None
    if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages):
        raise DamagedPart("its stages are no list of texts")
    return arrays, stages


def _as_declared(found: pa.Table) -> pa.Table:
    """Return the columns of the schema, which must have its types: a text is not read as a number."""
    wanted = CERTIFICATE_SCHEMA if "radius" in found.column_names else ATTACK_SCHEMA
    missing = [name for name in wanted.names if name not in found.column_names]
    if missing:
        raise DamagedPart(f"it lacks the columns {', '.join(missing)}")
    schema = _schema(found.column_names)
    for field in schema:
        column = found.schema.field(field.name)
        if column.type != field.type:
            raise DamagedPart(f"its column {field.name} is {column.type}, not {field.type}")
        if not field.nullable and found[field.name].null_count:
            raise DamagedPart(f"its column {field.name} has empty cells")
    table = found.select(schema.names).cast(schema)
    table.validate(full=True)
    return table


def _seconds(text: str) -> dict[str, float]:
    seconds = json.loads(text)
    if not isinstance(seconds, dict) or not all(type(each) in (int, float) for each in seconds.values()):
        raise DamagedPart("its seconds are no numbers by stage")
    if not all(0 <= each < 1e12 for each in seconds.values()):
        raise DamagedPart("its seconds are negative or not finite")
    return {stage: float(each) for stage, each in seconds.items()}


def _check_seal(about: Mapping[str, str], content: Iterator[bytes], run: str, chunk: int) -> None:
    if not about.keys() & {"run", "chunk", "digest"}:
        return  # of version 0.1.0
    if run and about.get("run", "") not in ("", run):  # empty: written before there was a manifest
        raise DamagedPart(f"it belongs to the run {about.get('run', '')[:60]}, not {run[:60]}")
    if about.get("chunk") != str(chunk):
        raise DamagedPart(f"it is chunk {about.get('chunk', '')[:20]}, not {chunk}")
    if about.get("digest") != _digest({key: about[key] for key in about if key != "digest"}, content):
        raise DamagedPart("its content does not have its digest")


def _digest(about: Mapping[str, str], content: Iterator[bytes]) -> str:
    digest = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for piece in content:
        digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def _column_bytes(table: pa.Table) -> Iterator[bytes]:
    """Yield what the values of a table are, however its buffers are laid out."""
    for name in table.column_names:
        column = table[name].combine_chunks()
        yield f"{name} {column.type} {len(column)} {column.null_count};".encode()
        if column.null_count:
            yield column.is_valid().to_numpy(zero_copy_only=False).tobytes()
        if pa.types.is_list(column.type):
            yield pc.list_value_length(column).to_numpy(zero_copy_only=False).tobytes()
            column = pc.list_flatten(column)
        if pa.types.is_string(column.type):
            texts = column.fill_null("")
            yield pc.binary_length(texts).to_numpy(zero_copy_only=False).tobytes()
            yield "".join(texts.to_pylist()).encode()
        else:
            filled = column.fill_null(False if pa.types.is_boolean(column.type) else 0) if column.null_count else column
            yield filled.to_numpy(zero_copy_only=False).tobytes()


def _array_bytes(arrays: Arrays) -> Iterator[bytes]:
    for name in sorted(arrays):
        yield f"{name} {arrays[name].dtype} {list(arrays[name].shape)};".encode()
        yield np.ascontiguousarray(arrays[name]).tobytes()

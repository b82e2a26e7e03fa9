"""Parts are bound to their run and chunk: no flipped bit changes a value silently, and 0.1.0's parts stay valid."""

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from gauntlet.errors import UserError
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.sealed_part import DamagedPart, decode_examples, decode_rows, encode_examples, encode_rows
from tests.evidence.manifests import small_manifest
from tests.evidence.test_run_folder import table

ROWS = table([(n, stage, n % 3 == 0, "crash" if n == 5 else None) for n in range(12) for stage in ("clean", "a/true")])
EXAMPLES = {
    "sample": np.arange(6),
    "stage": np.zeros(6, np.uint8),
    "x": np.random.default_rng(0).random((6, 1, 4, 4), np.float32),
    "z": np.random.default_rng(1).random((6, 1, 4, 4), np.float32),
}


def flipped(data, count, seed=0):
    """Yield copies of the bytes, each with one other bit flipped."""
    for place in random.Random(seed).sample(range(8 * len(data)), count):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        yield bytes(changed)


def test_no_flipped_bit_of_a_part_changes_a_value():
    data, found = encode_rows(ROWS, "run", 0, {"clean": 0.5}), 0
    for changed in flipped(data, 600):
        try:
            rows, seconds = decode_rows(changed, "run", 0)
        except DamagedPart:
            found += 1
        else:
            assert rows.equals(ROWS)
            assert seconds == {"clean": 0.5}
    assert found > 400


def test_no_flipped_bit_of_the_examples_changes_a_value():
    for changed in flipped(encode_examples(EXAMPLES, "run", 0, ["a/true"]), 300):
        try:
            arrays, stages = decode_examples(changed, "run", 0)
        except DamagedPart:
            continue
        assert stages == ["a/true"]
        assert arrays.keys() == EXAMPLES.keys()
        assert all(np.array_equal(arrays[name], EXAMPLES[name]) for name in EXAMPLES)


def test_the_same_examples_give_the_same_bytes():
    assert len({encode_examples(EXAMPLES, "run", 0, ["a/true"]) for _ in range(20)}) == 1


@pytest.mark.parametrize(("run", "chunk", "words"), [("other", 0, "belongs to the run run"), ("run", 1, "is chunk 0")])
def test_a_part_of_another_run_or_chunk_is_refused(run, chunk, words):
    with pytest.raises(DamagedPart, match=words):
        decode_rows(encode_rows(ROWS, "run", 0, {}), run, chunk)
    with pytest.raises(DamagedPart, match=words):
        decode_examples(encode_examples(EXAMPLES, "run", 0, []), run, chunk)


def test_a_part_with_fewer_rows_is_refused():
    whole = pq.read_table(pa.BufferReader(encode_rows(ROWS, "run", 0, {})))
    sink = pa.BufferOutputStream()
    pq.write_table(whole.slice(2), sink)
    with pytest.raises(DamagedPart, match="digest"):
        decode_rows(sink.getvalue().to_pybytes(), "run", 0)


@pytest.mark.parametrize("column", ["sample", "distance", "broken"])
def test_a_column_that_became_text_is_named(column):
    sink = pa.BufferOutputStream()
    place = ROWS.column_names.index(column)
    pq.write_table(ROWS.set_column(place, column, pa.array(["1"] * len(ROWS))), sink)
    with pytest.raises(DamagedPart, match=f"column {column} is string"):
        decode_rows(sink.getvalue().to_pybytes(), "run", 0)


@pytest.mark.parametrize("seconds", ["[]", '{"clean": "x"}', '{"clean": -1}', "{", '{"clean": 1e999}'])
def test_bad_seconds_are_named(seconds):
    sink = pa.BufferOutputStream()
    pq.write_table(ROWS.replace_schema_metadata({"seconds": seconds}), sink)
    with pytest.raises(DamagedPart):
        decode_rows(sink.getvalue().to_pybytes(), "run", 0)


def test_parts_of_the_first_version_stay_valid():
    sink = pa.BufferOutputStream()
    pq.write_table(ROWS.replace_schema_metadata({"seconds": json.dumps({"clean": 0.5})}), sink, compression="zstd")
    rows, seconds = decode_rows(sink.getvalue().to_pybytes(), "any", 3)
    assert rows.equals(ROWS)
    assert seconds == {"clean": 0.5}
    arrays, stages = decode_examples(save(EXAMPLES, {"stages": '["a/true"]'}), "any", 3)
    assert stages == ["a/true"]
    assert np.array_equal(arrays["z"], EXAMPLES["z"])


def test_records_of_other_samples_are_named(tmp_path):
    run = RunFolder(tmp_path)
    run.create(small_manifest())
    run.write_part(0, ROWS, {})
    run.check_samples(0, run.read_part(0), np.arange(12)[::-1])
    for ids in (np.arange(11), np.arange(1, 13)):
        with pytest.raises(UserError, match="does not hold"):
            run.check_samples(0, run.read_part(0), ids)

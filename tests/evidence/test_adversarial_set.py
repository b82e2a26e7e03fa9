"""Adversarial sets come back as they were written, or not at all."""

import json

import numpy as np
import pytest

from gauntlet.errors import UserError
from gauntlet.evidence.adversarial_set import SHAPES, AdversarialSet, Lookup

TOLD = {"stage": "pgd/plain", "sources": {"plain": {"victim": "v"}}, "threat": ["linf", "linf-0.1", 0.0, 1.0],
        "data": {"digest": "sha256:d", "selection": "all"}, "samples": 6, "chunk": 3}  # fmt: skip


def arrays(ids):
    count, rng = len(ids), np.random.default_rng(sum(ids))
    made = {name: np.zeros([count] + [1] * (axes - 1), kind) for name, (kind, axes) in SHAPES.items()}
    x = rng.random((count, 1, 2, 2), np.float32)
    return made | {"sample": np.array(ids, np.int64), "x": x, "z": x + np.float32(1e-7)}


@pytest.fixture
def two(tmp_path):
    """A set of two parts."""
    made = AdversarialSet(tmp_path / "set")
    made.create(TOLD)
    made.write(0, arrays([1, 4, 7]), 0.5)
    made.write(1, arrays([9, 12, 13]), 0.5)
    return made


def test_a_part_comes_back_bit_for_bit(two):
    for part, ids in ((0, [1, 4, 7]), (1, [9, 12, 13])):
        back, wrote = two.read(part), arrays(ids)
        assert all(back[name].tobytes() == wrote[name].tobytes() for name in SHAPES)
    assert two.present() == [0, 1]
    assert two.description["stage"] == "pgd/plain"


def test_samples_are_found_in_any_order_across_parts(two):
    found = Lookup(two).find(np.array([12, 1, 13, 7]))
    assert found["sample"].tolist() == [12, 1, 13, 7]
    first, second = arrays([1, 4, 7])["x"], arrays([9, 12, 13])["x"]
    assert found["x"].tobytes() == np.stack([second[1], first[0], second[2], first[2]]).tobytes()
    assert all(len(value) == 0 for value in Lookup(two).find(np.array([], np.int64)).values())


def test_a_set_may_grow_under_a_lookup(two):
    lookup = Lookup(two)
    lookup.find(np.array([1]))
    two.write(2, arrays([20]), 0.1)
    assert lookup.find(np.array([20]))["sample"].tolist() == [20]


def test_a_sample_that_it_lacks_is_told(two):
    with pytest.raises(UserError, match="lacks sample 5 and 1 more of those to score"):
        Lookup(two).find(np.array([1, 5, 6]))


def changed(two, offset):
    path = two.part_path(0)
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("offset", [-1, -40, 12])
def test_a_flipped_bit_is_found(two, offset):
    changed(two, offset)
    with pytest.raises(UserError, match=r"part-00000.safetensors is damaged \("):
        two.read(0)


def test_a_short_part_is_damaged(two):
    path = two.part_path(0)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"):
        two.read(0)
    with pytest.raises(UserError, match="is damaged"):
        Lookup(two).find(np.array([1]))


def test_the_digest_is_of_what_counts(two, tmp_path):
    before = two.digest()
    other = AdversarialSet(tmp_path / "other")
    other.create(TOLD | {"commit": "another"})
    other.write(0, arrays([1, 4, 7]), 9.0)
    other.write(1, arrays([9, 12, 13]), 9.0)
    assert other.digest() == before
    two.write(1, arrays([9, 12, 14]), 0.5)
    assert two.digest() != before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not an adversarial set"),
        ("{", "is damaged"),
        ("[]", "is not of version 1"),
        (json.dumps({"version": 1}), "lacks stage"),
    ],
)
def test_an_unfit_description_is_told(tmp_path, content, said):
    if content is not None:
        (tmp_path / "set.json").write_text(content)
    with pytest.raises(UserError, match=said):
        AdversarialSet(tmp_path).description  # noqa: B018

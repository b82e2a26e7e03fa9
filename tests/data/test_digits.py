"""The embedded data set: always the same images in the same order."""

from itertools import combinations

import numpy as np
import pytest
import torch

from gauntlet.data.dataset import PARTS
from gauntlet.data.digits import Digits
from gauntlet.errors import UserError

GOLDEN = {
    "train": (1078, "sha256:ca71239bc08ef3d94e56007b6f362708a3493d5792440846f7633f37446c7871"),
    "validation": (360, "sha256:db98a4fdf0c4f34d0d0f32dcc137fa93041c396a20786972c77a919ec26c3729"),
    "test": (359, "sha256:26caae46db2f2d648194c3445949836d311ac1d75c6558ec87583c64770d4f10"),
}


@pytest.mark.parametrize("part", PARTS)
def test_the_split_is_the_one_that_was_published(part):
    split = Digits().split(part)
    assert (len(split), split.digest()) == GOLDEN[part]
    assert split.selection() == "all"
    assert split.ids.tolist() == list(range(len(split)))


def test_the_parts_are_disjoint_and_stratified():
    from sklearn.datasets import load_digits

    batches = {part: Digits().split(part).read(slice(None)) for part in PARTS}
    seen = {part: {image.numpy().tobytes() for image in batch.x} for part, batch in batches.items()}
    assert all(not seen[a] & seen[b] for a, b in combinations(PARTS, 2))
    everything = {(image / 16).astype(np.float32).tobytes() for image in load_digits().images}
    assert set.union(*seen.values()) == everything
    totals = sum(torch.bincount(batch.y, minlength=10) for batch in batches.values())
    for part, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        counts = torch.bincount(batches[part].y, minlength=10)
        assert (counts - share * totals).abs().max() <= 1


def test_pixels_are_sixteenths():
    batch = Digits().split("test").read([0, 5])
    assert batch.x.shape == (2, 1, 8, 8)
    assert (batch.ids.dtype, batch.x.dtype, batch.y.dtype) == (torch.int64, torch.float32, torch.int64)
    assert torch.equal(batch.x * 16, (batch.x * 16).round())
    assert batch.x.amax() == 1
    assert batch.x.amin() == 0


def test_the_selection_touches_the_test_part_only(tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("4\n2\n9\n")
    chosen = Digits(limit=2, indices=str(ids))
    split = chosen.split("test")
    assert split.ids.tolist() == [2, 4]
    assert split.read(slice(None)).ids.tolist() == [2, 4]
    assert torch.equal(split.read([1]).x, Digits().split("test").read([4]).x)
    assert split.selection() != "all"
    assert split.digest() == GOLDEN["test"][1]
    assert len(chosen.split("train")) == 1078


def test_reading_no_or_unknown_positions():
    split = Digits(limit=5).split("test")
    assert split.read([]).x.shape == (0, 1, 8, 8)
    with pytest.raises(IndexError):
        split.read([5])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"limit": 0}, "dataset.limit=0 must be a whole number from 1, or null"),
        ({"limit": 360}, "there are 359 images"),
        ({"classes": 9}, "digits has classes=10"),
        ({"channels": 2}, "dataset.channels=2"),
        ({"size": 0}, "dataset.size=0"),
        ({"name": "a/b"}, "dataset.name='a/b'"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Digits(**fields).split("test")


def test_an_unknown_part_is_a_programming_error():
    with pytest.raises(ValueError, match="'val' is not one of train, validation, test"):
        Digits().split("val")

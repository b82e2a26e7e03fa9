"""The layout of CIFAR-10-C: five severities in one array, ids as in the clean set."""

import numpy as np
import pytest
import torch

from gauntlet.data.corrupted import Corrupted
from gauntlet.errors import UserError

LABELS = np.arange(4) % 3


@pytest.fixture
def folder(tmp_path, pictures):
    np.save(tmp_path / "fog.npy", pictures(20))
    np.save(tmp_path / "labels.npy", np.tile(LABELS, 5))
    return tmp_path


def data(folder, **more):
    return Corrupted(**({"path": str(folder), "corruption": "fog", "severity": 2, "classes": 3, "size": 8} | more))


@pytest.mark.parametrize("severity", range(1, 6))
def test_a_severity_is_its_slice(folder, pictures, severity):
    split = data(folder, severity=severity).split("test")
    expected = pictures(20)[(severity - 1) * 4 : severity * 4].transpose(0, 3, 1, 2).copy()
    batch = split.read(slice(None))
    assert torch.equal(batch.x, torch.from_numpy(expected).float() / 255)
    assert batch.y.tolist() == LABELS.tolist()
    assert batch.ids.tolist() == [0, 1, 2, 3]


def test_severities_are_told_apart(folder):
    sets = [data(folder, severity=severity) for severity in range(1, 6)]
    assert len({each.split("test").digest() for each in sets}) == 5
    assert [each.name for each in sets[:2]] == ["corrupted-fog-1", "corrupted-fog-2"]
    assert data(folder, name="mine").name == "mine"
    assert data(folder, class_map=None).class_names() == ()


def test_labels_may_stand_once(folder):
    first = data(folder).split("test")
    np.save(folder / "labels.npy", LABELS)
    assert data(folder).split("test").digest() == first.digest()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"severity": 0}, r"dataset\.severity=0 must be a whole number from 1 to 5"),
        ({"severity": 6}, r"dataset\.severity=6 must be a whole number from 1 to 5"),
        ({"corruption": "frog"}, r"has no frog\.npy; set dataset\.corruption to one of fog"),
        ({"size": 9}, r"8x8 pixels, not 9x9; set dataset\.size=8"),
        ({"path": "nowhere"}, "is not a folder"),
        ({"classes": 2}, "has label 2, not one of 0 to 1"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, options, said):
    with pytest.raises(UserError, match=said):
        data(folder, **options).split("test")


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (19, np.tile(LABELS, 5), "19 images, which 5 severities cannot share"),
        (20, np.arange(20) % 3, "other labels at another severity"),
        (20, LABELS[:3], "3 labels for 20 images"),
        (20, None, r"there is no file .*labels\.npy"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, pictures, images, labels, said):
    np.save(tmp_path / "fog.npy", pictures(images))
    if labels is not None:
        np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(UserError, match=said):
        data(tmp_path).split("test")


def test_nothing_can_be_trained_on_them(folder):
    with pytest.raises(UserError, match="test images alone"):
        data(folder).split("train")

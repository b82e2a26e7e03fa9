"""Corruptions of a data set are those of the package, drawn by the id of an image, whatever is read with it."""

import numpy as np
import pytest
import torch

from gauntlet.data.array_files import ArrayFiles
from gauntlet.data.common_corruptions import CommonCorruptions, CorruptedRows
from gauntlet.errors import UserError

LABELS = np.arange(6) % 3


def corrupted(**options):
    return CommonCorruptions(**({"classes": 3, "size": 32} | options))


@pytest.fixture
def base(tmp_path, pictures):
    np.savez(tmp_path / "set.npz", x=pictures(6, 32), y=LABELS)
    return ArrayFiles(path=str(tmp_path / "set.npz"), classes=3, size=32, class_map=None)


@pytest.fixture
def package():
    return pytest.importorskip("imagecorruptions", reason="the package imagecorruptions-imaug is not installed")


@pytest.mark.parametrize("corruption", ["gaussian_noise", "impulse_noise", "glass_blur", "frost", "jpeg_compression"])
@pytest.mark.filterwarnings("ignore")
def test_an_image_is_the_same_whatever_is_read_with_it(base, package, corruption):
    split = corrupted(of=base, corruption=corruption, severity=3).split("test")
    whole = split.read(slice(None))
    again = corrupted(of=base, corruption=corruption, severity=3, limit=4).split("test")
    before = np.random.get_state()[1].copy()  # noqa: NPY002  the package draws from there
    assert torch.equal(again.read([2, 0, 2]).x, whole.x[[2, 0, 2]])
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert whole.y.tolist() == LABELS.tolist()
    clean = base.split("test").read(slice(None)).x
    assert whole.x.shape == clean.shape
    assert not torch.equal(whole.x, clean)


@pytest.mark.filterwarnings("ignore")
def test_pixels_are_those_of_the_package(base, package, pictures):
    found = corrupted(of=base, corruption="contrast", severity=5).split("test").read([1])
    expected = package.corrupt(pictures(6, 32)[1], severity=5, corruption_name="contrast")
    assert np.array_equal((found.x[0] * 255).round().byte().permute(1, 2, 0).numpy(), expected)


@pytest.mark.filterwarnings("ignore")
def test_corruptions_and_severities_are_told_apart(base, package):
    sets = [
        corrupted(of=base, corruption=corruption, severity=severity)
        for corruption in ("fog", "contrast")
        for severity in (1, 5)
    ]
    assert len({each.split("test").digest() for each in [*sets, base]}) == 5
    assert [each.name for each in sets[:2]] == ["arrays-fog-1", "arrays-fog-5"]


@pytest.mark.filterwarnings("ignore")
def test_what_no_seed_reaches_is_refused(base, package):
    drawn = np.random.default_rng(0)
    rows = CorruptedRows(base.open("test").source, "static", 3, lambda image, seed: drawn.permuted(image))
    with pytest.raises(UserError, match="static is drawn anew each time, and no seed reaches it"):
        rows.check(np.arange(1))
    with pytest.raises(UserError, match="frog is unknown; choose gaussian_noise"):
        corrupted(of=base, corruption="frog", severity=3).split("test")


def test_what_does_not_fit_is_one_line(base, monkeypatch, tmp_path, pictures):
    for options, said in (
        ({"of": 3}, "dataset.of is no data set"),
        ({"severity": 6}, "severity=6 must lie in 1 to 5"),
        ({"classes": 4}, "dataset.classes=4, but dataset.of has 3"),
    ):
        with pytest.raises(UserError, match=said):
            corrupted(**({"of": base, "corruption": "fog", "severity": 3} | options))
    small = ArrayFiles(path=str(tmp_path / "set.npz"), classes=3, size=8)
    with pytest.raises(UserError, match="color images of 32 pixels or more"):
        corrupted(of=small, size=8, corruption="fog", severity=3)
    monkeypatch.setitem(__import__("sys").modules, "imagecorruptions", None)
    with pytest.raises(UserError, match="pip install imagecorruptions-imaug"):
        corrupted(of=base, corruption="fog", severity=3).split("test")

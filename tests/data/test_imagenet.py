"""ImageNet from folders, and from archives of the published layout."""

import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image, ImageOps
from torchvision.datasets import imagenet as reader
from torchvision.transforms import functional

from gauntlet.data import decoding
from gauntlet.data.decoding import ORIENTATION
from gauntlet.data.imagenet import ARCHIVES, DEVKIT, ImageNet
from gauntlet.errors import UserError

WNIDS = ["n01440764", "n01443537", "n02084071"]
SMALL = {"classes": 3, "size": 16, "resize": 20}


def photograph(seed):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (24 + seed, 40 - seed, 3), dtype=np.uint8))


def jpeg(seed):
    sink = io.BytesIO()
    photograph(seed).save(sink, "JPEG")
    return sink.getvalue()


def tar(members, kind="w"):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=kind) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


@pytest.fixture
def archives(monkeypatch):
    """The three archives: two training images per class; six validation images, class by class in reverse."""
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    synsets = np.array([(i + 1, wnid, f"word {i}, other", "gloss", 0) for i, wnid in enumerate(WNIDS)], dtype=kind)
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets})
    truth = "".join(f"{3 - i // 2}\n" for i in range(6)).encode()
    base = "ILSVRC2012_devkit_t12/data"
    files = {
        DEVKIT: tar(
            {f"{base}/meta.mat": meta.getvalue(), f"{base}/ILSVRC2012_validation_ground_truth.txt": truth}, "w:gz"
        ),
        ARCHIVES["val"]: tar({f"ILSVRC2012_val_{i + 1:08d}.JPEG": jpeg(i) for i in range(6)}),
        ARCHIVES["train"]: tar({f"{w}.tar": tar({f"{w}_{i}.JPEG": jpeg(i) for i in range(2)}) for w in WNIDS}),
    }
    names = {"devkit": DEVKIT, "val": ARCHIVES["val"], "train": ARCHIVES["train"]}
    sums = {key: (name, hashlib.md5(files[name], usedforsecurity=False).hexdigest()) for key, name in names.items()}
    monkeypatch.setattr(reader, "ARCHIVE_META", sums)
    return files


def write(root, files, *names):
    root.mkdir(exist_ok=True)
    for name in names:
        (root / name).write_bytes(files[name])


def check(data):
    batch = data.split("test").read(slice(None))
    order = batch.ids.argsort()
    assert batch.y[order].tolist() == [0, 0, 1, 1, 2, 2]
    for position, seed in zip(order.tolist(), [4, 5, 2, 3, 0, 1], strict=True):
        image = Image.open(io.BytesIO(jpeg(seed)))
        expected = functional.to_tensor(functional.center_crop(functional.resize(image, [20]), [16]))
        assert torch.equal(batch.x[position], expected)


def test_archives_are_unpacked_on_request_and_read_from_folders_after(tmp_path, archives):
    root = tmp_path / "imagenet"
    write(root, archives, DEVKIT, ARCHIVES["val"])
    data = ImageNet(root=str(root), download=True, **SMALL)
    check(data)
    assert {path.name for path in root.iterdir()} == {"val", "meta.bin", ".incoming.lock", DEVKIT, ARCHIVES["val"]}
    for name in (DEVKIT, ARCHIVES["val"], "meta.bin"):
        (root / name).unlink()
    check(replace(data, download=False))
    with pytest.raises(UserError, match="has no folder train"):
        replace(data, download=False).split("train")


def test_a_turned_image_is_read_as_stored_with_a_word_or_turned_on_request(tmp_path, archives, caplog):
    write(tmp_path, archives, DEVKIT, ARCHIVES["val"])
    data = ImageNet(root=str(tmp_path), download=True, **SMALL)
    plain = data.split("test").read(slice(None)).x
    assert not caplog.records
    decoding._say_turned.cache_clear()
    path = sorted((tmp_path / "val").rglob("*.JPEG"))[0]
    exif, image = Image.Exif(), Image.open(path)
    exif[ORIENTATION] = 3
    image.save(path, "PNG", exif=exif)
    stored = data.split("test").read(slice(None)).x
    assert torch.equal(stored, plain)
    assert "dataset.upright=true" in caplog.text
    turned = replace(data, upright=True).split("test").read(slice(None)).x
    (row,) = (turned != plain).flatten(1).any(1).nonzero().flatten().tolist()
    upright = functional.center_crop(functional.resize(ImageOps.exif_transpose(Image.open(path)), [20]), [16])
    assert torch.equal(turned[row], functional.to_tensor(upright))


def test_training_images_are_split(tmp_path, archives):
    write(tmp_path, archives, DEVKIT, ARCHIVES["train"])
    data = ImageNet(root=str(tmp_path), download=True, **SMALL)
    training, validation = data.split("train"), data.split("validation")
    assert (len(training), len(validation)) == (5, 1)
    assert sorted([*training.ids, *validation.ids]) == list(range(6))
    assert training.digest() != validation.digest()


def test_the_manual_step_is_told(tmp_path):
    with pytest.raises(
        UserError, match=rf"dataset.root={tmp_path} has no folder val; .* by hand: put {DEVKIT}"
    ) as error:
        ImageNet(root=str(tmp_path)).split("test")
    assert ARCHIVES["val"] in str(error.value)
    assert "dataset.download=true" in str(error.value)
    with pytest.raises(UserError, match=f"dataset.root={tmp_path}/none is not a folder; make it and put {DEVKIT}"):
        ImageNet(root=f"{tmp_path}/none", download=True).split("test")


def test_a_full_disk_leaves_nothing_that_breaks_the_next(tmp_path, archives, monkeypatch):
    write(tmp_path, archives, DEVKIT, ARCHIVES["val"])
    data = ImageNet(root=str(tmp_path), download=True, **SMALL)
    plain = reader.extract_archive

    def half(source, target, *rest):
        plain(source, target, *rest)
        if ARCHIVES["val"] in str(source):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(reader, "extract_archive", half)
        with pytest.raises(UserError, match=r"ImageNet cannot be unpacked in .* \(No space left on device\)"):
            data.split("test")
    assert not (tmp_path / "val").exists()
    check(data)


@pytest.mark.parametrize("missing", [DEVKIT, ARCHIVES["val"]])
def test_missing_or_damaged_archives_leave_nothing_behind(tmp_path, archives, missing):
    write(tmp_path, archives, *{DEVKIT, ARCHIVES["val"]} - {missing})
    data = ImageNet(root=str(tmp_path), download=True, **SMALL)
    for half in (False, True):
        if half:
            (tmp_path / missing).write_bytes(archives[missing][:100])
        with pytest.raises(
            UserError, match=rf"cannot be unpacked in {tmp_path} \(The archive {missing} is not present"
        ):
            data.split("test")
        assert not (tmp_path / "val").exists()
        assert not (tmp_path / ".incoming").exists()
    write(tmp_path, archives, missing)
    check(data)

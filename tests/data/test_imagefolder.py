"""One folder per class."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from gauntlet.data.digest import canonical
from gauntlet.data.imagefolder import ImageFolder
from gauntlet.data.selection import hash_order
from gauntlet.errors import UserError


@pytest.fixture(scope="module")
def pixels(pictures):
    return {name: pictures(10, seed=seed) for seed, name in enumerate(["ant", "bee", "cat"])}


@pytest.fixture
def data(tmp_path, pixels, write_folder):
    write_folder(tmp_path / "train", pixels)
    write_folder(tmp_path / "test", {name: images[:4] for name, images in pixels.items()})
    return ImageFolder(path=str(tmp_path), classes=3, size=8)


def expected(images):
    return torch.from_numpy((np.stack(images).astype(np.float32) / np.float32(255)).transpose(0, 3, 1, 2))


def test_ids_follow_the_sorted_paths_and_the_order_is_a_fair_sample(data, pixels):
    split = data.split("test")
    assert split.ids.tolist() == hash_order(12).tolist()
    batch = split.read(slice(None))
    by_id = batch.x[batch.ids.argsort()]
    assert torch.equal(by_id, expected([image for images in pixels.values() for image in images[:4]]))
    assert batch.y.tolist() == (batch.ids // 4).tolist()
    assert len(set(replace(data, limit=6).split("test").read(slice(None)).y.tolist())) == 3


def test_a_tenth_of_training_is_held_out(data, pixels):
    training, validation = data.split("train"), data.split("validation")
    assert (len(training), len(validation)) == (27, 3)
    assert sorted([*training.ids, *validation.ids]) == list(range(30))
    assert len({data.split(part).digest() for part in ("train", "validation", "test")}) == 3
    own = replace(data, validation="test")
    assert len(own.split("train")) == 30
    assert own.split("validation").digest() == data.split("test").digest()


def test_the_digest_covers_names_and_contents(data, tmp_path, pictures, png):
    first = data.split("test").digest()
    image = tmp_path / "test" / "ant" / "0000.png"
    image.write_bytes(png(pictures(1, seed=9)[0]))
    second = data.split("test").digest()
    image.rename(tmp_path / "test" / "bee" / "0009.png")
    third = data.split("test").digest()
    assert len({first, second, third}) == 3
    assert replace(data, limit=1).split("test").digest() == third


def test_the_digest_covers_how_images_are_read(data, tmp_path):
    readings = [{}, {"resize": 8}, {"resize": 10}, {"resize": 10, "size": 9}, {"channels": 1}]
    for part in ("train", "validation", "test"):
        digests = [replace(data, **reading).split(part).digest() for reading in readings]
        assert len(set(digests)) == len(readings)
    (tmp_path / "ids.txt").write_text("2\n")
    same = [{"limit": 1}, {"indices": str(tmp_path / "ids.txt")}, {"name": "own"}]
    (tmp_path / "test").rename(tmp_path / "moved")
    found = {replace(data, test="moved", **fields).split("test").digest() for fields in same}
    assert found == {digests[0]}


def test_the_digest_covers_the_numbers_of_the_classes(data, tmp_path):
    data = replace(data, classes=4)
    (tmp_path / "test" / "aardvark").mkdir()  # holds nothing, but the others count from 1
    first = data.split("test").digest()
    (tmp_path / "test" / "aardvark").rename(tmp_path / "test" / "zebra")
    assert data.split("test").digest() != first


def test_deeper_folders_are_looked_into_and_other_files_left_out(data, tmp_path):
    ant = tmp_path / "test" / "ant"
    (ant / "more").mkdir()
    (ant / "0003.png").rename(ant / "more" / "0.PNG")
    (ant / "notes.txt").write_text("no image")
    (tmp_path / "test" / ".cache").mkdir()
    (tmp_path / "test" / "notes.txt").write_text("no class")
    split = data.split("test")
    assert len(split) == 12
    assert split.source.names[3] == "ant/more/0.PNG"


def test_native_sizes_need_resize(data, tmp_path, pictures, png):
    (tmp_path / "test" / "ant" / "0000.png").write_bytes(png(pictures(1, 20)[0]))
    position = data.split("test").ids.tolist().index(0)
    with pytest.raises(UserError, match=r"ant/0000.png: the image is 20x20, not 8x8; check dataset.size"):
        data.split("test").read([position])
    assert replace(data, resize=9).split("test").read([position]).x.shape == (1, 3, 8, 8)


def test_class_folders_that_are_numbers_are_in_their_order(tmp_path, pictures, write_folder, caplog):
    names = ["1", "2", "10"]
    write_folder(tmp_path / "test", {name: pictures(2, seed=number) for number, name in enumerate(names)})
    data = ImageFolder(path=str(tmp_path), classes=3, size=8)
    split = data.split("test")
    labels = {split.source.names[row].split("/")[0]: int(split.source.labels[row]) for row in range(6)}
    assert labels == {"1": 0, "2": 1, "10": 2}
    assert "class folders are in the order of their numbers: 1 is class 0, 2 is class 1, 10 is class 2" in caplog.text
    text = replace(data, order="text").split("test")
    assert text.source.names[2].startswith("10/")
    assert text.digest() != split.digest() == replace(data, order="number").split("test").digest()
    (tmp_path / "test" / "10").rename(tmp_path / "test" / "ten")
    with pytest.raises(UserError, match=r"dataset.order=number, but the class folder ten is no number; set"):
        replace(data, order="number").split("test")
    with pytest.raises(UserError, match=r"dataset.order='size' is unknown; choose one of auto, number, text"):
        replace(data, order="size")


def test_what_is_left_out_is_said(data, tmp_path, caplog):
    ant = tmp_path / "test" / "ant"
    (ant / ".ipynb_checkpoints").mkdir()
    for name in ("._x.png", ".ipynb_checkpoints/0000.png", "a.gif", "b.gif", "c.JFIF"):
        (ant / name).write_bytes(b"no image")
    assert len(data.split("test")) == 12
    assert "left out files that are no images by their ending: 2 .gif, 1 .jfif" in caplog.text


def test_an_empty_folder_is_named(data, tmp_path, caplog):
    (tmp_path / "test" / "__MACOSX").mkdir()
    with pytest.raises(UserError, match=r"has 4 class folders, not 3, and no image is in __MACOSX; remove what is no"):
        data.split("test")
    replace(data, classes=4).split("test")
    assert "no image of class __MACOSX" in caplog.text


def test_images_are_turned_upright_and_only_they_change_the_digest(data, tmp_path, pictures):
    before = data.split("test").digest()
    path = tmp_path / "test" / "ant" / "0000.png"
    stored, exif = Image.fromarray(pictures(1, seed=5)[0]), Image.Exif()
    stored.save(path)
    plain = data.split("test").digest()
    exif[0x0112] = 6
    stored.save(path, exif=exif)
    split = data.split("test")
    batch = split.read([split.ids.tolist().index(0)])
    assert torch.equal(batch.x, expected([np.asarray(ImageOps.exif_transpose(Image.open(path)))]))
    assert split.source.reading()["exif"] == "upright"
    assert len({before, plain, split.digest()}) == 3
    (tmp_path / "test" / "ant" / "0000.png").write_bytes((tmp_path / "train" / "ant" / "0000.png").read_bytes())
    assert "exif" not in canonical(data.split("test").source.reading())
    assert data.split("test").digest() == before  # a set without turned images keeps the digest that it had


def test_bounds(data):
    with pytest.raises(UserError, match=r"dataset.resize=100000 is more than 8192 pixels"):
        replace(data, resize=100000)
    with pytest.raises(UserError, match=r"dataset.size=100000 must be a whole number from 1 to 8192: pixels"):
        replace(data, size=100000)
    with pytest.raises(UserError, match=r"dataset.classes=1 must be a whole number from 2: give the number"):
        replace(data, classes=1)


def test_mistakes_are_named(data, tmp_path):
    with pytest.raises(UserError, match=r"test has 3 class folders; set dataset.classes=3, not 10"):
        replace(data, classes=10).split("test")
    with pytest.raises(UserError, match=r"dataset.path=/none is not a folder"):
        replace(data, path="/none").split("test")
    with pytest.raises(UserError, match=r"val is not a folder; set dataset.test"):
        replace(data, test="val").split("test")
    split = data.split("test")
    where = tmp_path / "test" / "ant" / "0000.png"
    where.write_bytes(b"junk")
    position = split.ids.tolist().index(0)
    with pytest.raises(UserError, match=rf"{where}: the image cannot be decoded \(not an image\)"):
        split.read([position])
    where.unlink()
    with pytest.raises(UserError, match=rf"{where} cannot be read \(No such file"):
        split.read([position])
    for name in ("ant", "bee", "cat"):
        for file in (tmp_path / "test" / name).iterdir():
            file.unlink()
    with pytest.raises(UserError, match="the test part of imagefolder holds no images"):
        data.split("test")

"""One folder per class."""

from dataclasses import replace

import numpy as np
import pytest
import torch

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

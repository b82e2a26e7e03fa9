"""Tar files in the layout of WebDataset give their images and labels; ids are places; damage is one line."""

import io
import json
import os
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from gauntlet.data.webdataset import WebDataset
from gauntlet.errors import UserError

LABELS = [2, 0, 1, 2, 0]


def tar(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def pixels(pictures):
    return pictures(len(LABELS))


@pytest.fixture
def images(pixels, png):
    return [png(each) for each in pixels]


def samples(images, rows, ending="cls", label=lambda number: str(number).encode()):
    return [
        member
        for row in rows
        for member in ((f"a.b/{row:04d}.png", images[row]), (f"a.b/{row:04d}.{ending}", label(LABELS[row])))
    ]


def data(root, **more):
    return WebDataset(**({"path": str(root), "classes": 3, "size": 8} | more))


def test_ids_are_places_over_all_shards(tmp_path, pixels, images):
    tar(tmp_path / "test-0.tar", [("__index.txt", b"two files"), *samples(images, range(3))])
    tar(tmp_path / "test-1.tar", samples(images, range(3, 5)))
    split = data(tmp_path).split("test")
    assert split.ids.tolist() == list(range(5))
    batch = split.read([4, 0, 3])
    assert torch.equal(batch.x, torch.from_numpy(pixels[[4, 0, 3]].transpose(0, 3, 1, 2).copy()).float() / 255)
    assert batch.y.tolist() == [0, 2, 2]
    assert split.source.name(3) == "a.b/0003.png"
    (tmp_path / "names.txt").write_text("0003.png\na.b/0001.png\n")
    assert data(tmp_path, indices=str(tmp_path / "names.txt")).split("test").ids.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("ending", "label", "options"),
    [
        ("cls", lambda number: f"{number}\n".encode(), {}),
        ("json", lambda number: json.dumps({"label": number, "more": [1]}).encode(), {"label": "json"}),
        ("json", lambda number: json.dumps({"class": str(number)}).encode(), {"label": "json", "key": "class"}),
        ("json", lambda number: json.dumps(number).encode(), {"label": "json"}),
        ("txt", lambda number: "abc"[number].encode(), {"label": "txt", "class_map": {"a": 0, "b": 1, "c": 2}}),
    ],
)
def test_labels_stand_in_texts_and_json(tmp_path, images, ending, label, options):
    tar(tmp_path / "test.tar", samples(images, range(5), ending, label))
    assert data(tmp_path, **options).split("test").read(slice(None)).y.tolist() == LABELS


def test_the_digest_is_of_the_content_and_of_what_is_read(tmp_path, images):
    tar(tmp_path / "a" / "test.tar", samples(images, range(5)))
    tar(tmp_path / "b" / "test.tar", samples(images, range(5)))
    tar(tmp_path / "c" / "test.tar", samples([*images[:4], images[0]], range(5)))
    first, same, other = (data(tmp_path / name).split("test").digest() for name in "abc")
    assert first == same != other
    counted = data(tmp_path / "a", class_map={"0": 1, "1": 0, "2": 2})
    assert counted.split("test").read(slice(None)).y.tolist() == [2, 1, 0, 2, 1]
    assert counted.split("test").digest() != first


def test_training_images_are_split_once(tmp_path, images):
    tar(tmp_path / "train.tar", samples(images, range(5)))
    parts = [data(tmp_path).split(part).ids.tolist() for part in ("train", "validation")]
    assert sorted(parts[0] + parts[1]) == list(range(5))


@pytest.mark.parametrize(
    ("members", "options", "said"),
    [
        ([("1.png", b"x")], {}, r"test\.tar, 1 has no label \.cls \(it has png\); set dataset\.label"),
        ([("1.png", b"x"), ("1.jpg", b"x"), ("1.cls", b"0")], {}, r"several images \(png, jpg\); set dataset\.image"),
        ([("1.png", b"x"), ("1.cls", b"cat")], {}, "1.cls says 'cat', no class number; give dataset.class_map"),
        ([("1.png", b"x"), ("1.cls", b"\xff")], {}, "1.cls is no label"),
        ([("1.png", b"x"), ("1.cls", b"9" * 40)], {}, "no class number"),
        ([("1.png", b"x"), ("1.cls", b"9" * (2 << 20))], {}, "more than 1048576 bytes"),
        ([("1.png", b"x"), ("1.json", b"{")], {"label": "json"}, "1.json is no label"),
        (
            [("1.png", b"x"), ("1.json", b'{"class": 1}')],
            {"label": "json"},
            "has no label .it has class.",
        ),
        ([("1.png", b"x"), ("1.cls", b"1")], {}, r"test\.tar, 1\.png: the image cannot be decoded"),
        ([("1.txt", b"x")], {}, "holds no images"),
    ],
)
def test_what_is_no_sample_is_one_line(tmp_path, members, options, said):
    tar(tmp_path / "test.tar", members)
    with pytest.raises(UserError, match=said) as caught:
        data(tmp_path, **options).split("test").read(slice(None))
    assert "\n" not in str(caught.value)


def test_compressed_missing_and_foreign_files_are_named(tmp_path, images):
    tar(tmp_path / "test.tar.gz", samples(images, range(5)), "w:gz")
    with pytest.raises(UserError, match=r"test\.tar\.gz is damaged or no plain tar file .*unpack it first"):
        data(tmp_path / "test.tar.gz").split("test")
    with pytest.raises(UserError, match=r"no \.tar file for the test part"):
        data(tmp_path).split("test")
    (tmp_path / "test.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(UserError, match=r"test\.tar is damaged or no plain tar file"):
        data(tmp_path).split("test")
    (tmp_path / "test.tar").unlink()
    os.mkfifo(tmp_path / "test.tar")
    with pytest.raises(UserError, match="a named pipe"):
        data(tmp_path).split("test")


def test_wrong_bytes_are_refused_or_read(tmp_path, images):
    path = tar(tmp_path / "test.tar", samples(images, range(5)))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        changed = bytearray(whole[: rng.integers(len(whole))])
        for at in rng.integers(0, max(1, len(changed)), 4):
            changed[at : at + 1] = bytes([rng.integers(256)])
        path.write_bytes(bytes(changed))
        try:
            data(tmp_path).split("test").read(slice(None))
        except UserError as cause:
            assert "\n" not in str(cause)  # noqa: PT017


def test_a_changed_file_is_told(tmp_path, images):
    path = tar(tmp_path / "test.tar", samples(images, range(5)))
    split = data(tmp_path).split("test")
    os.utime(path, (1, 1))
    with pytest.raises(UserError, match=r"test\.tar was changed while it was in use"):
        split.read([0])


def test_images_may_be_resized(tmp_path, png, pictures):
    tar(tmp_path / "test.tar", [("1.png", png(pictures(1, 20)[0])), ("1.cls", b"1")])
    with pytest.raises(UserError, match="the image is 20x20, not 8x8"):
        data(tmp_path).split("test").read([0])
    assert replace(data(tmp_path), resize=9).split("test").read([0]).x.shape == (1, 3, 8, 8)


@pytest.mark.filterwarnings("ignore")
def test_what_the_package_writes_is_read(tmp_path, pixels):
    wds = pytest.importorskip("webdataset", reason="the package webdataset is not installed")
    with wds.ShardWriter(str(tmp_path / "test-%04d.tar"), maxcount=2, verbose=0) as writer:
        for number, (image, label) in enumerate(zip(pixels, LABELS, strict=True)):
            writer.write({"__key__": f"{number:06d}", "png": image, "cls": label})
    batch = data(tmp_path).split("test").read(slice(None))
    assert torch.equal(batch.x, torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float() / 255)
    assert batch.y.tolist() == LABELS

"""Layouts of the Hugging Face Hub give their images, labels and class names; damage is one line that names its file."""

import json
import os
import socket
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gauntlet.data.huggingface import HuggingFace
from gauntlet.data.parquet import Parquet
from gauntlet.errors import UserError

ANIMALS = ["eel", "fox", "cat"]
LABELS = [2, 0, 1, 2, 0]
FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ANIMALS}}
METADATA = {"huggingface": json.dumps({"info": {"features": FEATURES}})}


def table(images, labels=LABELS, paths=None, columns=("image", "label"), metadata=METADATA):
    kind = pa.struct({"bytes": "binary", "path": "string"})
    rows = [{"bytes": data, "path": path} for data, path in zip(images, paths or [None] * len(images), strict=True)]
    return pa.table({columns[0]: pa.array(rows, kind), columns[1]: pa.array(labels)}).replace_schema_metadata(metadata)


def stream(path, content, rows=2, opened=pa.ipc.new_stream):
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, opened(sink, content.schema) as writer:
        writer.write_table(content, max_chunksize=rows)
    return path


def saved(folder, content, shards=2):
    """A folder as `save_to_disk` of one split leaves it."""
    each = -(-len(content) // shards)
    names = [f"data-{n:05d}-of-{shards:05d}.arrow" for n in range(shards)]
    for n, name in enumerate(names):
        stream(folder / name, content.slice(n * each, each))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


@pytest.fixture
def pixels(pictures):
    return pictures(len(LABELS))


@pytest.fixture
def images(pixels, png):
    return [png(each) for each in pixels]


def layouts():
    def one(root, content):
        saved(root, content)

    def several(root, content):
        saved(root / "test", content)
        saved(root / "train", content)
        (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')

    def plain(root, content):
        stream(root / "animals-test-00000-of-00001.arrow", content)
        stream(root / "animals-train.arrow", content)

    def with_footer(root, content):
        stream(root / "test.arrow", content, opened=pa.ipc.new_file)

    def hub(root, content):
        (root / "data").mkdir(parents=True)
        for n, at in enumerate((0, 3)):
            pq.write_table(content.slice(at, 3), root / "data" / f"test-{n:05d}-of-00002.parquet")
        pq.write_table(content, root / "data" / "train-00000-of-00001.parquet")

    def converted(root, content):
        (root / "default" / "test").mkdir(parents=True)
        pq.write_table(content, root / "default" / "test" / "0000.parquet")

    return [one, several, plain, with_footer, hub, converted]


def data(root, **more):
    return HuggingFace(**({"path": str(root), "classes": 3, "size": 8} | more))


@pytest.mark.parametrize("layout", layouts(), ids=lambda each: each.__name__)
def test_every_layout_gives_the_same_images(tmp_path, pixels, images, layout):
    layout(tmp_path / "set", table(images))
    split = data(tmp_path / "set").split("test")
    batch = split.read([4, 0, 3, 3])
    expected = torch.from_numpy(pixels[[4, 0, 3, 3]].transpose(0, 3, 1, 2).copy()).float() / 255
    assert torch.equal(batch.x, expected)
    assert batch.y.tolist() == [LABELS[n] for n in (4, 0, 3, 3)]
    assert batch.ids.tolist() == [4, 0, 3, 3]
    assert data(tmp_path / "set").class_names() == tuple(ANIMALS)


def test_the_digest_is_of_the_content_and_of_what_is_read(tmp_path, images):
    saved(tmp_path / "a", table(images))
    saved(tmp_path / "b", table(images))
    first = data(tmp_path / "a").split("test").digest()
    assert data(tmp_path / "b").split("test").digest() == first
    assert data(tmp_path / "a", limit=2).split("test").digest() == first
    assert data(tmp_path / "a", channels=1).split("test").digest() != first
    assert data(tmp_path / "a", classes=9, class_map={"eel": 8, "fox": 2, "cat": 1}).split("test").digest() != first
    saved(tmp_path / "c", table([*images[:4], images[0]]))
    assert data(tmp_path / "c").split("test").digest() != first


def test_training_images_are_split_once(tmp_path, images):
    layouts()[1](tmp_path, table(images))
    parts = [data(tmp_path).split(part).ids.tolist() for part in ("train", "validation")]
    assert sorted(parts[0] + parts[1]) == list(range(5))
    own = data(tmp_path, validation="test")
    assert own.split("validation").digest() == own.split("test").digest()


def test_images_beside_the_files_are_read_and_belong_to_the_digest(tmp_path, pixels, images):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.png").write_bytes(images[1])
    (tmp_path / "2.png").write_bytes(images[2])
    paths = [None, "pictures/1.png", str(tmp_path / "2.png"), None, None]
    saved(tmp_path, table([images[0], None, None, *images[3:]], paths=paths))
    split = data(tmp_path).split("test")
    x = split.read([2, 1, 0]).x
    assert torch.equal(x, torch.from_numpy(pixels[[2, 1, 0]].transpose(0, 3, 1, 2).copy()).float() / 255)
    assert split.source.name(1) == "pictures/1.png"
    before = split.digest()
    (tmp_path / "pictures" / "1.png").write_bytes(images[0])
    assert data(tmp_path).split("test").digest() != before
    (tmp_path / "pictures" / "1.png").unlink()
    with pytest.raises(UserError, match=r"1\.png cannot be read"):
        data(tmp_path).split("test").read([1])


def test_the_classes_of_a_network_are_said_by_a_map(tmp_path, images):
    saved(tmp_path, table(images))
    with pytest.raises(UserError, match=r"has 3 classes \(eel, fox, cat\); set dataset\.classes=3, not 1000"):
        data(tmp_path, classes=1000).split("test")
    mapped = data(tmp_path, classes=1000, class_map={"cat": 281, "fox": 277, "eel": 390})
    assert mapped.split("test").read(slice(None)).y.tolist() == [281, 390, 277, 281, 390]
    assert mapped.class_names()[281] == "cat"
    with pytest.raises(UserError, match="column label: fox is not in"):
        data(tmp_path, classes=1000, class_map={"cat": 281, "eel": 390}).split("test")


def test_columns_are_told_by_their_kind(tmp_path, images):
    features = {"picture": FEATURES["image"], "species": FEATURES["label"]}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    saved(tmp_path, table(images, columns=("picture", "species"), metadata=metadata))
    assert data(tmp_path).split("test").read(slice(None)).y.tolist() == LABELS
    with pytest.raises(UserError, match=r"has no column image .it has picture, species.; set dataset.image"):
        data(tmp_path, image="image").split("test")
    saved(tmp_path / "bare", table(images, columns=("picture", "species"), metadata=None))
    with pytest.raises(UserError, match=r"has the columns picture, species; set dataset.image to that of the images"):
        data(tmp_path / "bare").split("test")


def test_labels_may_be_missing(tmp_path, images):
    saved(tmp_path, table(images, labels=[-1] * 5))
    with pytest.raises(UserError, match="label -1, not one of 0 to 2; -1 stands for an image without a label"):
        data(tmp_path).split("test")


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
@pytest.mark.parametrize(
    "content", ["{", "[]", '{"_data_files": [{}], "splits": 3}', '{"_data_files": [], "splits": []}']
)
def test_damaged_folders_name_their_file(tmp_path, images, name, content):
    saved(tmp_path, table(images))
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name} |has the splits ") as caught:
        data(tmp_path).split("test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["arrow", "parquet"])
def test_a_damaged_file_is_named(tmp_path, images, ending):
    path = tmp_path / f"test.{ending}"
    stream(path, table(images)) if ending == "arrow" else pq.write_table(table(images), path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 16, 97):
        path.write_bytes(whole[:length])
        try:
            data(tmp_path).split("test").read(slice(None))
        except UserError as cause:
            assert "test." in str(cause)  # noqa: PT017  a cut between two batches of a stream leaves fewer rows
            assert "\n" not in str(cause)  # noqa: PT017


def test_bytes_that_are_wrong_end_no_process(tmp_path, images):
    path = stream(tmp_path / "test.arrow", table(images), rows=5)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(whole)
        for at in rng.integers(0, len(whole), 4):
            changed[at] = rng.integers(256)
        path.write_bytes(bytes(changed))
        try:
            data(tmp_path).split("test").read(slice(None))
        except UserError as cause:
            assert "\n" not in str(cause)  # noqa: PT017


@pytest.mark.parametrize("ending", ["arrow", "parquet"])
def test_a_pipe_is_refused(tmp_path, ending):
    os.mkfifo(tmp_path / f"test.{ending}")
    with pytest.raises(UserError, match="a named pipe"):
        data(tmp_path).split("test")


def test_a_changed_file_is_told(tmp_path, images):
    path = stream(tmp_path / "test.arrow", table(images))
    split = data(tmp_path).split("test")
    stream(path, table(images[::-1]))
    os.utime(path, (1, 1))
    with pytest.raises(UserError, match=r"test\.arrow was changed while it was in use"):
        split.read([0])


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("nowhere/at/all", {}, "is not there; give a folder, a file, or a name on the Hub"),
        ("set", {"test": "dev"}, r"no Arrow or Parquet file of the split dev \(it has a/test\.parquet"),
        ("set", {}, r"files of the split test in a, b; set dataset\.config"),
        ("empty", {}, r"it has none at all"),
        ("set/a/test.csv", {}, "is one file; give a folder"),
    ],
)
def test_what_is_not_there_is_one_line(tmp_path, images, path, options, said):
    for folder in ("a", "b"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        pq.write_table(table(images), tmp_path / "set" / folder / "test.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "set" / "a" / "test.csv").touch()
    with pytest.raises(UserError, match=said):
        data(tmp_path / path, **options).split("test")
    assert len(data(tmp_path / "set", config="b").split("test")) == 5


def test_a_part_that_lacks_a_file_is_refused(tmp_path, images, caplog):
    pq.write_table(table(images), tmp_path / "test-00001-of-00002.parquet")
    with pytest.raises(UserError, match="1 of the 2 files test-…-of-00002 are there; fetch the rest"):
        data(tmp_path).split("test")
    Parquet(path=str(tmp_path), classes=3, size=8).split("test")
    assert "1 of the 2 files test-…-of-00002 are there" in caplog.text
    pq.write_table(table(images), tmp_path / "test-00000-of-00002.parquet")
    assert len(data(tmp_path).split("test")) == 10


def test_the_name_of_a_file_counts_before_that_of_a_folder(tmp_path, images):
    (tmp_path / "train_and_test").mkdir()
    for part, rows in (("train", 3), ("test", 2), ("latest", 1)):
        pq.write_table(table(images).slice(0, rows), tmp_path / "train_and_test" / f"{part}-00000-of-00001.parquet")
    found = data(tmp_path)
    assert (len(found.split("train")) + len(found.split("validation")), len(found.split("test"))) == (3, 2)


def test_a_name_on_the_hub_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets; pip install datasets, or set dataset.path"):
        data("owner/animals").split("test")


def test_a_name_on_the_hub_without_a_network_is_one_line(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")

    def refused(*_, **__):
        raise ConnectionError("no network here\nat all")

    monkeypatch.setattr(datasets, "load_dataset", refused)
    with pytest.raises(UserError, match=r"cannot be had from the Hub .no network here.; check the name") as caught:
        data("owner/animals").split("test")
    assert "dataset.download=true" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_asked_of_a_network_unless_download_is_given(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    asked = []

    def refused(*words, **_):
        asked.append(words)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(UserError, match="cannot be had from the Hub"):
        data("owner/animals").split("test")
    assert not asked
    assert before == datasets.config.HF_HUB_OFFLINE


@pytest.mark.filterwarnings("ignore")
def test_what_the_package_saves_is_read(tmp_path, pixels, images, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=ANIMALS)})
    made = datasets.Dataset.from_dict(
        {"image": [{"bytes": it, "path": None} for it in images], "label": LABELS}, features
    )
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "saved"))
    made.to_parquet(str(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet"))
    expected = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float() / 255
    for folder in ("saved", "hub"):
        found = data(tmp_path / folder)
        assert torch.equal(found.split("test").read(slice(None)).x, expected)
        assert found.class_names() == tuple(ANIMALS)

    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset",
        lambda name, config, *, split, **_: load(
            "parquet", data_files={split: str(tmp_path / "hub" / "data" / "*.parquet")}, split=split,
            cache_dir=str(tmp_path / "cache"),
        ),
    )  # fmt: skip
    fetched = data("owner/animals")
    assert torch.equal(fetched.split("test").read(slice(None)).x, expected)
    assert replace(fetched, limit=2).split("test").read(slice(None)).y.tolist() == LABELS[:2]

"""Parquet files in the layout of the Hub: every image in its place, little memory, one line for every mistake."""

import io
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gauntlet.data import digest, parquet_file, parquet_rows
from gauntlet.data.parquet import Parquet
from gauntlet.errors import UserError

SMALL = {"name": "small", "classes": 4, "channels": 3, "size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures, png, write_parquet):
    """40 training images in row groups of 7; 23 test images in two files, in row groups of 5."""
    root = tmp_path_factory.mktemp("parquet")
    pixels = pictures(63)
    images, labels = [png(image) for image in pixels], [number % 4 for number in range(63)]
    write_parquet(root / "train.parquet", images[:40], labels[:40], 7)
    write_parquet(root / "test-00000-of-00002.parquet", images[40:52], labels[40:52], 5)
    write_parquet(root / "test-00001-of-00002.parquet", images[52:], labels[52:], 5)
    return root, pixels


@pytest.fixture(scope="module")
def whole(folder):
    return Parquet(path=str(folder[0]), **SMALL).split("test")


def tensor(pixels):
    return torch.from_numpy((pixels.astype(np.float32) / np.float32(255)).transpose(0, 3, 1, 2))


def test_the_images_of_all_files_come_in_order(folder, whole):
    batch = whole.read(slice(None))
    assert whole.ids.tolist() == batch.ids.tolist() == list(range(23))
    assert torch.equal(batch.x, tensor(folder[1][40:]))
    assert batch.y.tolist() == [number % 4 for number in range(40, 63)]
    assert (batch.ids.dtype, batch.x.dtype, batch.y.dtype) == (torch.int64, torch.float32, torch.int64)


@given(st.lists(st.integers(0, 22), max_size=30))
def test_reading_together_is_reading_one_by_one(whole, positions):
    batch = whole.read(positions)
    singles = [whole.read([position]) for position in positions]
    for column, found in zip(zip(*singles, strict=True), batch, strict=False):
        assert torch.equal(found, torch.cat(column))
    assert batch.x.shape == (len(positions), 3, 8, 8)


@given(st.slices(23))
def test_slices_are_positions(whole, piece):
    assert torch.equal(whole.read(piece).x, whole.read(list(range(23))[piece]).x)


def test_without_a_validation_part_a_tenth_of_training_is_held_out(folder):
    data = Parquet(path=str(folder[0]), **SMALL)
    training, validation = data.split("train"), data.split("validation")
    assert len(validation) == 4
    assert sorted([*training.ids, *validation.ids]) == list(range(40))
    assert torch.equal(validation.read(slice(None)).x, tensor(folder[1][validation.ids]))
    digests = {data.split(part).digest() for part in ("train", "validation", "test")}
    assert len(digests) == 3
    assert data.split("train").digest() == training.digest()


def test_a_validation_part_is_used_whole(folder):
    data = Parquet(path=str(folder[0]), validation="test-00000*", **SMALL)
    assert len(data.split("validation")) == 12
    assert data.split("train").ids.tolist() == list(range(40))


@pytest.mark.parametrize(
    ("path", "fields", "count"),
    [
        ("{}", {"test": "test-00000-of-00002.parquet"}, 12),
        ("{}", {"test": "*.parquet"}, 63),
        ("{}", {"test": "."}, 63),
        ("{}", {"test": "{}/test*"}, 23),
        ("{}/test-00000-of-00002.parquet", {}, 12),
        ("{}/test*", {}, 23),
    ],
)
def test_paths_are_files_folders_and_globs(folder, path, fields, count):
    fields = {key: value.format(folder[0]) for key, value in fields.items()}
    data = Parquet(path=path.format(folder[0]), **fields, **SMALL)
    assert len(data.split("test")) == count
    assert len(data.split("train")) == 36


def test_the_selection_leaves_digest_and_ids_alone(folder, tmp_path, whole):
    (tmp_path / "ids.txt").write_text("20\n3\n")
    data = Parquet(path=str(folder[0]), **SMALL)
    limited = replace(data, limit=7).split("test")
    listed = replace(data, indices=str(tmp_path / "ids.txt")).split("test")
    assert limited.ids.tolist() == list(range(7))
    assert listed.ids.tolist() == [3, 20]
    assert torch.equal(listed.read([1, 0]).x, tensor(folder[1][[60, 43]]))
    assert {limited.digest(), listed.digest(), whole.digest()} == {whole.digest()}
    assert len({limited.selection(), listed.selection(), whole.selection()}) == 3
    assert whole.selection() == "all"


def test_the_digest_is_of_content(folder, tmp_path, whole):
    for name in ("0.parquet", "1.parquet"):
        (tmp_path / name).write_bytes((folder[0] / f"test-0000{name[0]}-of-00002.parquet").read_bytes())
    moved = Parquet(path=str(tmp_path), test="*.parquet", **SMALL)
    assert moved.split("test").digest() == whole.digest()
    (tmp_path / "0.parquet").rename(tmp_path / "2.parquet")
    assert moved.split("test").digest() != whole.digest()


def test_the_digest_is_of_what_is_read(tmp_path, pictures, png):
    images = pa.array([{"bytes": png(image)} for image in pictures(4)], pa.struct({"bytes": "binary"}))
    columns = {"image": images, "other": images[::-1], "label": [0, 1, 2, 3], "fine": [3, 2, 1, 0]}
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    data = Parquet(path=str(tmp_path), **SMALL)
    readings = [{}, {"resize": 8}, {"resize": 10}, {"resize": 10, "size": 9}, {"channels": 1}, {"label": "fine"},
                {"image": "other"}]  # fmt: skip
    digests = [replace(data, **reading).split("test").digest() for reading in readings]
    assert len(set(digests)) == len(readings)
    (tmp_path / "ids.txt").write_text("2\n")
    elsewhere = (tmp_path / "test.parquet").rename(tmp_path / "moved.parquet")
    same = [{"path": str(elsewhere)}, {"test": "moved*"}, {"test": "moved*", "name": "own", "budgets": {"linf": 0.1}},
            {"test": "moved*", "limit": 2}, {"test": "moved*", "indices": str(tmp_path / "ids.txt")}]  # fmt: skip
    assert {replace(data, **fields).split("test").digest() for fields in same} == {digests[0]}


def test_beyond_eight_gigabytes_the_footers_are_digested(tmp_path, pictures, png, write_parquet, monkeypatch):
    monkeypatch.setattr(digest, "WHOLE", 100)
    path = write_parquet(tmp_path / "test.parquet", [png(image) for image in pictures(3)], [0, 1, 2])
    data = Parquet(path=str(path), **SMALL)
    found = data.split("test").digest()
    assert found.startswith("sha256-footer:")
    footer = parquet_file.footer_bytes(path)
    assert footer.endswith(b"PAR1")
    assert pq.read_metadata(pa.BufferReader(b"PAR1" + footer)).num_rows == 3
    write_parquet(path, [png(image) for image in pictures(3)], [0, 1, 3])
    assert data.split("test").digest() != found


@pytest.fixture
def opened(monkeypatch):
    """The row groups that are opened, in order."""
    log = []
    plain = parquet_rows.ParquetRows._batches

    def counted(self, group):
        log.append((group.file, group.index))
        return plain(self, group)

    monkeypatch.setattr(parquet_rows.ParquetRows, "_batches", counted)
    return log


def test_reading_forward_opens_each_row_group_once_and_keeps_two(folder, opened):
    split = Parquet(path=str(folder[0]), **SMALL).split("test")
    for start in range(0, 23, 3):
        split.read(slice(start, start + 3))
        assert len(split.source._blocks) <= 2
    assert opened == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_only_the_row_groups_that_are_needed_are_opened(folder, opened):
    split = Parquet(path=str(folder[0]), **SMALL).split("test")
    split.read([22, 6, 5, 6])
    assert opened == [(0, 1), (1, 2)]


def test_jumping_about_keeps_what_fits(folder, opened, monkeypatch):
    split = Parquet(path=str(folder[0]), **SMALL).split("test")
    for _ in range(5):
        split.read([0, 6, 11, 13])
    assert opened == [(0, 0), (0, 1), (0, 2), (1, 0), (0, 0), (0, 1)]  # of the first time, the last two were kept
    opened.clear()
    monkeypatch.setattr(parquet_rows, "CACHE", 1)
    split.read([18])
    for _ in range(2):
        split.read([0, 6, 11, 13])
    assert opened == [(1, 1), *[(0, 0), (0, 1), (0, 2), (1, 0)] * 2]


def test_one_big_row_group_is_read_in_blocks(tmp_path, pictures, png, write_parquet, opened, monkeypatch):
    pixels = pictures(300)
    images = [png(image) for image in pixels]
    path = write_parquet(tmp_path / "test.parquet", images, [0] * 300, 1000)
    monkeypatch.setattr(parquet_file, "BLOCK", 20 * len(images[0]))
    split = Parquet(path=str(path), **SMALL).split("test")
    for start in range(0, 300, 10):
        batch = split.read(slice(start, start + 10))
        assert torch.equal(batch.x, tensor(pixels[start : start + 10]))
        assert split.source._held <= 3 * 20 * len(images[0])
    assert opened == [(0, 0)]
    assert torch.equal(split.read([299, 0]).x, tensor(pixels[[299, 0]]))


def test_plain_bytes_and_other_column_names(tmp_path, pictures, png):
    pixels = pictures(3, channels=1)
    table = pa.table({"img": [png(image) for image in pixels], "fine_label": pa.array([2, 0, 1], pa.int8())})
    pq.write_table(table, tmp_path / "test.parquet")
    data = Parquet(path=str(tmp_path), image="img", label="fine_label", **{**SMALL, "channels": 1})
    batch = data.split("test").read(slice(None))
    assert torch.equal(batch.x, tensor(pixels))
    assert batch.y.tolist() == [2, 0, 1]
    with pytest.raises(UserError, match=r"has no column image \(it has img, fine_label\); set dataset.image"):
        replace(data, image="image").split("test")
    with pytest.raises(UserError, match=r"has no column label \(it has img, fine_label\); set dataset.label"):
        replace(data, label="label").split("test")
    with pytest.raises(UserError, match="column fine_label holds int8, no encoded images"):
        replace(data, image="fine_label").split("test")
    with pytest.raises(UserError, match="column img holds binary, not class numbers"):
        replace(data, label="img").split("test")


def test_images_of_any_size_can_be_resized(tmp_path, pictures, png, write_parquet):
    path = write_parquet(tmp_path / "test.parquet", [png(image) for image in pictures(2, 20)], [0, 1])
    data = Parquet(path=str(path), resize=10, **SMALL)
    assert data.split("test").read([0, 1]).x.shape == (2, 3, 8, 8)
    with pytest.raises(UserError, match=r"test.parquet, row 1: the image is 20x20, not 8x8"):
        replace(data, resize=None).split("test").read([1])
    with pytest.raises(UserError, match=r"dataset.resize=7 is below dataset.size=8"):
        replace(data, resize=7)


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_outside_the_classes_is_named_before_anything_is_read(tmp_path, pictures, png, write_parquet, label):
    images = [png(image) for image in pictures(6)]
    path = write_parquet(tmp_path / "test.parquet", images, [0, 1, 2, 3, 0, label], 4)
    data = Parquet(path=str(path), **SMALL)
    with pytest.raises(
        UserError, match=rf"sample 5 of small \(.*test.parquet, row 5\) has label {label}, not one of 0"
    ):
        data.split("test")
    assert len(replace(data, limit=5).split("test")) == 5


def test_bad_rows_are_named(tmp_path, pictures, png, write_parquet):
    good = png(pictures(1)[0])
    write_parquet(tmp_path / "test-0.parquet", [good, good], [0, 1])
    write_parquet(tmp_path / "test-1.parquet", [good, b"junk", None], [0, 1, 2])
    split = Parquet(path=str(tmp_path), **SMALL).split("test")
    with pytest.raises(UserError, match=r"test-1.parquet, row 1: the image cannot be decoded \(not an image\)"):
        split.read([0, 3])
    with pytest.raises(UserError, match=r"test-1.parquet, row 2: image.bytes is empty"):
        split.read([4])
    write_parquet(tmp_path / "test-2.parquet", [good, good], [0, None])
    with pytest.raises(UserError, match=r"test-2.parquet, row 1: the label is missing"):
        Parquet(path=str(tmp_path), **SMALL).split("test")


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_file_is_named(tmp_path, pictures, png, write_parquet, damage):
    path = write_parquet(tmp_path / "test.parquet", [png(image) for image in pictures(9)], [0] * 9)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"version https://git-lfs\n"}[damage])
    with pytest.raises(UserError, match=r"test.parquet is damaged or no Parquet file \(.+\); fetch") as error:
        Parquet(path=str(path), **SMALL).split("test")
    assert "\n" not in str(error.value)


def test_a_file_with_a_hole_is_named(tmp_path, pictures, png, write_parquet):
    path = write_parquet(tmp_path / "test.parquet", [png(image) for image in pictures(50)], [0] * 50, 10)
    whole = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(2).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    whole[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(whole)
    split = Parquet(path=str(path), **SMALL).split("test")
    split.read(slice(0, 20))
    for _ in range(2):
        with pytest.raises(UserError, match=r"test.parquet is damaged or no Parquet file"):
            split.read(slice(18, 22))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_missing_files_are_named(tmp_path, part):
    with pytest.raises(UserError, match=r"no Parquet file for the .+ part: dataset.path=.+none.parquet"):
        Parquet(path=str(tmp_path / "none.parquet"), **SMALL).split(part)
    with pytest.raises(UserError) as missing:
        Parquet(path=str(tmp_path / "none.parquet"), **SMALL).split(part)
    assert str(missing.value).count("dataset.path=") == 1
    with pytest.raises(UserError, match=r"dataset.(train|test)=(train|test)\*.parquet; set dataset.(train|test) to"):
        Parquet(path=str(tmp_path), **SMALL).split(part)


def test_a_part_without_rows_is_refused(tmp_path, write_parquet):
    path = write_parquet(tmp_path / "test.parquet", [], pa.array([], pa.int64()))
    with pytest.raises(UserError, match="the test part of small holds no images"):
        Parquet(path=str(path), **SMALL).split("test")


@pytest.mark.parametrize("change", ["rewritten", "replaced", "cut short"])
def test_a_file_that_is_changed_half_way_is_refused(tmp_path, pictures, png, write_parquet, change):
    data = [png(image) for image in pictures(40)]
    path = write_parquet(tmp_path / "test.parquet", data, [0] * 40, group=10)
    split = Parquet(path=str(tmp_path), size=8).split("test")
    split.digest()
    split.read(slice(0, 10))
    if change == "rewritten":
        path.write_bytes(path.read_bytes())
    elif change == "cut short":
        path.write_bytes(path.read_bytes()[:900])
    else:
        write_parquet(tmp_path / "new" / "test.parquet", data, [1] * 40, group=10).replace(path)
    with pytest.raises(UserError, match=r"test\.parquet was changed while it was in use") as caught:
        split.read(slice(10, 20))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="was changed"):
        split.digest()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pa.array([0.0, 1.0]), "column label holds double, such as 0.0, not class numbers; write whole numbers from 0"),
        (pa.array([None, True]), "column label holds bool, such as True, not class numbers; write whole numbers"),
        (
            pa.array([1, 2**64 - 1], pa.uint64()),
            "row 1: the label in column label is 18446744073709551615; write",
        ),
    ],
)
def test_labels_that_are_no_class_numbers_are_named(tmp_path, pictures, png, write_parquet, labels, message):
    path = write_parquet(tmp_path / "test.parquet", [png(image) for image in pictures(2)], labels)
    with pytest.raises(UserError, match=re.escape(message)):
        Parquet(path=str(path), size=8).split("test")


def test_images_of_the_hub_are_turned_upright(tmp_path, pictures, write_parquet):
    exif, sink = Image.Exif(), io.BytesIO()
    exif[0x0112] = 3
    pixels = pictures(1)[0]
    Image.fromarray(pixels).save(sink, "PNG", exif=exif)
    split = Parquet(path=str(write_parquet(tmp_path / "t.parquet", [sink.getvalue()], [0])), size=8).split("test")
    assert np.array_equal(split.source.images(np.arange(1))[0], pixels[::-1, ::-1])
    assert split.source.reading()["exif"] == "upright"

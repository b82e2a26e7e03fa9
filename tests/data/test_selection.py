"""`limit` and `indices`: exactly what was asked for, or one line that says why not."""

import hashlib
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gauntlet.data.selection import KNOWN, hash_order, hold_out, select, selection_name
from gauntlet.errors import UserError

IDS = np.arange(100, 110)


@given(st.integers(0, 300))
def test_the_hash_order_is_a_permutation_by_sha256(count):
    order = hash_order(count).tolist()
    assert sorted(order) == list(range(count))
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in order]
    assert keys == sorted(keys)


def test_the_hash_order_never_changes():
    assert hash_order(10).tolist() == [9, 8, 4, 3, 0, 1, 7, 2, 6, 5]  # printf N | sha256sum


@given(st.integers(1, 300))
def test_a_tenth_is_held_out(count):
    training, validation = hold_out(count)
    assert sorted([*training, *validation]) == list(range(count))
    assert len(validation) == max(1, count // 10)
    assert validation.tolist() == sorted(hash_order(count)[len(training) :])


def test_nothing_chosen_is_everything():
    assert select(IDS, None, None).tolist() == IDS.tolist()
    assert selection_name(IDS, 10) == "all"


def test_limit_takes_the_first():
    assert select(IDS, 3, None).tolist() == [100, 101, 102]
    assert select(IDS, 10, None).tolist() == IDS.tolist()


@pytest.mark.parametrize("limit", [0, -1, 11])
def test_a_limit_that_cannot_be_met_is_refused(limit):
    with pytest.raises(UserError, match=rf"dataset.limit={limit}, but there are 10 images; give 1 to 10"):
        select(IDS, limit, None)


def test_indices_are_taken_in_the_order_of_the_split(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("# three of ten\n107\n\n 101  # the second\n105\n")
    assert select(IDS, None, str(path)).tolist() == [101, 105, 107]
    assert select(IDS, 2, str(path)).tolist() == [101, 105]
    with pytest.raises(UserError, match="there are 3 images"):
        select(IDS, 4, str(path))


def test_indices_from_numpy(tmp_path):
    path = tmp_path / "ids.npy"
    np.save(path, np.array([107, 101], dtype=np.uint16))
    assert select(IDS, None, str(path)).tolist() == [101, 107]


def test_the_name_of_a_selection_is_that_of_its_set():
    assert selection_name(np.array([3, 1]), 10) == selection_name(np.array([1, 3]), 10)
    assert selection_name(np.array([3, 1]), 10) != selection_name(np.array([3, 2]), 10)
    assert len(selection_name(np.array([3]), 10)) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("101\n110\n", "line 2: there is no id 110 in this split; ids go from 100 to 109"),
        ("-1\n", "line 1: there is no id -1"),
        ("101\n# x\n101\n", "line 3: id 101 stands at line 1 already"),
        ("101\n1e2\n", "line 2: '1e2' is not an id"),
        ("101 102\n", "line 1: '101 102' is not an id"),
        ("99999999999999999999\n", "line 1: '99999999999999999999' is not an id"),
        ("", "lists no ids"),
        ("# nothing\n", "lists no ids"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, message):
    path = tmp_path / "ids.txt"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        select(IDS, None, str(path))
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([101, 110]), "entry 1: there is no id 110"),
        (np.array([101, 101]), "entry 1: id 101 stands at entry 0 already"),
        (np.array([101.0]), "one-dimensional array of whole numbers"),
        (np.array([[101]]), "one-dimensional array of whole numbers"),
        (np.array([], dtype=np.int64), "lists no ids"),
    ],
)
def test_bad_arrays_are_named(tmp_path, array, message):
    path = tmp_path / "ids.npy"
    np.save(path, array)
    with pytest.raises(UserError, match=message):
        select(IDS, None, str(path))


@pytest.mark.parametrize(("name", "data"), [("ids.npy", b"no array"), ("ids.npy", b""), ("ids.txt", b"\xff\xfe1")])
def test_other_files_are_refused(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"is not (a NumPy array file|text)"):
        select(IDS, None, str(path))


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path / "none.npy", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            select(IDS, None, str(path))


def test_only_regular_files_list_ids(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(UserError, match="is no regular file; give a text file with one id a line"):
            select(np.arange(3), None, str(place))


NAMES = {100: "val/n01/a.JPEG", 101: "val/n01/b.JPEG", 102: "val/n02/a.JPEG", 103: "val/n02/c.JPEG"}


def chosen(tmp_path, *lines, names=NAMES):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(lines))
    return select(IDS[:4], None, str(path), lambda number: names[number]).tolist()


def test_names_may_have_more_folders_than_the_images_or_fewer(tmp_path):
    assert chosen(tmp_path, "n02/a.JPEG", "b.JPEG  # the second") == [101, 102]
    assert chosen(tmp_path, "./imagenet/val/n02/c.JPEG", "val/n01/a.JPEG") == [100, 103]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a.JPEG"], "a.JPEG is the name of val/n01/a.JPEG and val/n02/a.JPEG; write it with its folder"),
        (["n01/a.JPEG", "n01/d.JPEG"], "line 2: there is no image n01/d.JPEG .* names are like val/n01/a.JPEG"),
        (["n03/a.JPEG"], "there is no image n03/a.JPEG"),
        (["b.JPEG", "b.JPEG"], "line 2: b.JPEG stands at line 1 already"),
        (["100", "b.JPEG"], "line 2: 'b.JPEG' is not an id"),
    ],
)
def test_names_that_are_not_there_are_refused(tmp_path, lines, said):
    with pytest.raises(UserError, match=said):
        chosen(tmp_path, *lines)


def test_images_without_names_have_ids_alone(tmp_path):
    with pytest.raises(UserError, match=r"line 1: .b\.JPEG. is not an id, and these images have no names"):
        chosen(tmp_path, "b.JPEG", names=dict.fromkeys(NAMES, ""))


def test_a_published_list_is_recognized_by_its_names(tmp_path, monkeypatch, caplog):
    digest = hashlib.sha256(b"n01/a.JPEG\nn02/c.JPEG").hexdigest()
    monkeypatch.setitem(KNOWN, digest, "two images of somebody")
    assert chosen(tmp_path, "n02/c.JPEG", "n01/a.JPEG") == [100, 103]
    assert "names.txt lists two images of somebody" in caplog.text

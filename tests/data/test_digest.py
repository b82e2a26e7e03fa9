"""Digests depend on the content and on nothing else."""

import numpy as np
import pytest

from gauntlet.data import digest
from gauntlet.data.digest import canonical, derive, digest_arrays, digest_files
from gauntlet.errors import UserError


def files(folder, contents):
    folder.mkdir()
    found = []
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        found.append((name, folder / name))
    return found


def outline(path):
    return path.read_bytes()[-2:]


def test_the_place_does_not_matter_but_content_and_labels_do(tmp_path):
    first = digest_files(files(tmp_path / "a", {"x": b"12", "y": b"3"}), outline)
    assert first == digest_files(files(tmp_path / "b", {"x": b"12", "y": b"3"}), outline)
    assert first.startswith("sha256:")
    assert len(first) == 7 + 64
    assert first != digest_files(files(tmp_path / "c", {"x": b"1", "y": b"23"}), outline)
    assert first != digest_files(files(tmp_path / "d", {"x": b"12", "z": b"3"}), outline)


def test_contents_are_read_once(tmp_path, monkeypatch):
    listed = files(tmp_path / "a", {"x": b"12"})
    before = digest_files(listed, outline)
    monkeypatch.setattr(digest, "_contents", lambda _: pytest.fail("read again"))
    assert digest_files(listed, outline) == before


def test_a_changed_file_is_read_again(tmp_path):
    listed = files(tmp_path / "a", {"x": b"12"})
    before = digest_files(listed, outline)
    (tmp_path / "a" / "x").write_bytes(b"345")
    assert digest_files(listed, outline) != before


def test_big_files_are_outlined(tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "WHOLE", 8)
    found = digest_files(files(tmp_path / "a", {"x": b"1234567", "y": b"89"}), outline)
    assert found.startswith("sha256-footer:")
    assert found == digest_files(files(tmp_path / "b", {"x": b"XXXXX67", "y": b"89"}), outline)
    assert found != digest_files(files(tmp_path / "c", {"x": b"1234566", "y": b"89"}), outline)
    assert found != digest_files(files(tmp_path / "d", {"x": b"01234567", "y": b"89"}), outline)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path / 'x'} cannot be read"):
        digest_files([("x", tmp_path / "x")], outline)


def test_arrays_count_by_value_and_shape():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
    labels = np.arange(4)
    found = digest_arrays(pixels, labels)
    assert found == digest_arrays(np.asfortranarray(pixels), labels)
    assert found != digest_arrays(pixels.reshape(4, 3, 2, 2), labels)
    assert found != digest_arrays(pixels[::-1], labels)
    assert found != digest_arrays(pixels, labels[::-1])


def test_parts_of_one_source_differ():
    assert derive("sha256:12", "train") != derive("sha256:12", "validation")
    assert derive("sha256-footer:12", "train").startswith("sha256-footer:")


def test_readings_have_one_form():
    assert canonical({}) == canonical({"resize": None}) == ""
    assert canonical({"size": 8, "resize": None, "label": "é"}) == '{"label":"\\u00e9","size":8}'
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    assert canonical({"size": 8}) != canonical({"size": "8"})

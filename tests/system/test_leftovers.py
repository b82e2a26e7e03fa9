"""What killed processes left is removed; what a live one writes stays."""

import os
import subprocess
import sys
import time

import pytest

from gauntlet.errors import UserError
from gauntlet.system.file_reader import check_regular, read_json, read_regular
from gauntlet.system.leftovers import BOUND, remove_leftovers, temporary
from gauntlet.system.lock import LEASE, clear_folder

WRITE = """
import os, sys
from pathlib import Path
from gauntlet.system.leftovers import temporary
for name in ("run.json", "records/part-00000.parquet"):
    temporary(Path(sys.argv[1]) / name).write_text("half")
"""


def test_the_temporary_files_of_a_dead_process_are_removed(tmp_path):
    (tmp_path / "records").mkdir()
    subprocess.run([sys.executable, "-c", WRITE, tmp_path], check=True)
    mine, foreign = temporary(tmp_path / "run.json"), tmp_path / ".run.json.00000000.1-01234567.tmp"
    first_version = tmp_path / ".part-00000.parquet.999999-01234567.tmp"
    for path in (mine, foreign, first_version, tmp_path / ".mine.tmp", tmp_path / "note.tmp"):
        path.write_text("")
    assert len(list(tmp_path.rglob(".*.tmp"))) == 6
    remove_leftovers(tmp_path, time.time())
    kept = {mine.name, foreign.name, first_version.name, ".mine.tmp"}
    assert {path.name for path in tmp_path.rglob(".*.tmp")} == kept
    for path in (foreign, first_version):
        os.utime(path, (0, time.time() - BOUND - 60))
    remove_leftovers(tmp_path, time.time())
    assert {path.name for path in tmp_path.rglob(".*.tmp")} == {mine.name, ".mine.tmp"}


def test_an_owner_that_is_silent_and_holds_nothing_is_forgotten(tmp_path):
    for name, age in (("run-1-of-4", LEASE + 60), ("run-2-of-4", 0)):
        path = tmp_path / f"{name}.owner"
        path.write_text("process 1 on elsewhere\n\n")
        os.utime(path, (0, time.time() - age))
    clear_folder(tmp_path)
    assert [path.stem for path in tmp_path.glob("*.owner")] == ["run-2-of-4"]


def test_pipes_devices_folders_and_large_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(b"x" * 11)
    for name, words in (("pipe", "named pipe"), ("zeros", "device"), ("", "folder"), ("large", "11 bytes")):
        for read in (check_regular, read_regular):
            with pytest.raises(UserError, match=f"{words}.*; give a regular file"):
                read(tmp_path / name, most=10)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 10**5, "nested too deeply"), (b"[" * 99 + b"]" * 99, "nested too deeply"), (b"1e999", "too large"),
        (b"NaN", "no number"), (b"1" * 5000, "too large"), (b"\xff", "decode"), (b"{", "property name"),
    ],
)  # fmt: skip
def test_json_beyond_its_bounds_is_refused(tmp_path, text, words):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=words) as caught:
        read_json(path)
    assert len(str(caught.value)) < 500


def test_a_lone_surrogate_becomes_its_escape(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('["caf\\udce9"]')
    assert read_json(path) == ["caf\\udce9"]

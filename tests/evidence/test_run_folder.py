import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from gauntlet.errors import UserError
from gauntlet.evidence import run_folder
from gauntlet.evidence.run_folder import RunFolder, find_runs
from gauntlet.evidence.schema import ATTACK_SCHEMA, rows
from gauntlet.metrics.attack_summary import summarize
from gauntlet.system.atomic_file import write_atomically
from tests.evidence.manifests import small_manifest


def table(entries):
    """Rows from (sample, stage, broken, error)."""
    count = len(entries)
    columns = {name: [0] * count for name in ATTACK_SCHEMA.names}
    columns |= {
        "sample": [e[0] for e in entries],
        "stage": [e[1] for e in entries],
        "broken": [e[2] for e in entries],
        "error": [e[3] if len(e) > 3 else None for e in entries],
        "distance": [0.0] * count,
        "margin": [0.0] * count,
        "forwards": [0 if e[1] == "clean" else 5 for e in entries],
    }
    return rows(columns)


def test_a_part_comes_back_as_it_was_written(tmp_path):
    run = RunFolder(tmp_path / "run")
    part = table([(1, "clean", False), (2, "clean", True)])
    run.write_part(3, part, {"clean": 0.5})
    assert run.read_part(3).equals(part)
    assert run.read_seconds(3) == {"clean": 0.5}
    assert run.present() == {3}
    assert not list(run.path.rglob("*.tmp"))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_part_cut_short_is_named_and_set_aside(tmp_path, keep):
    run = RunFolder(tmp_path)
    run.write_part(0, table([(1, "clean", False)]), {})
    path = run.part_path(0)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"part-00000\.parquet is damaged.*same command") as caught:
        run.read_part(0)
    assert "\n" not in str(caught.value)
    aside = run.set_aside(0)
    assert aside.exists()
    assert run.present() == set()


def test_files_of_other_names_are_no_parts(tmp_path):
    run = RunFolder(tmp_path)
    run.write_part(1, table([(1, "clean", False)]), {})
    for name in ("part-00001 (copy).parquet", "part-1.parquet", "part-000002.parquet", "part-x.parquet"):
        (tmp_path / "records" / name).write_bytes(b"")
    assert run.present() == {1}


def test_what_was_set_aside_before_is_kept(tmp_path):
    run = RunFolder(tmp_path)
    for content in ("one", "two", "three"):
        run.write_part(0, table([(1, "clean", False)]), {})
        run.part_path(0).write_text(content)
        assert run.set_aside(0).read_text() == content
    assert sorted(path.read_text() for path in tmp_path.rglob("*.damaged")) == ["one", "three", "two"]


def test_examples_are_set_aside_under_the_number_of_their_records(tmp_path):
    run = RunFolder(tmp_path)
    examples = run.adversarial_path(0)
    examples.parent.mkdir()
    for content in (None, "one", "two"):
        run.write_part(0, table([(1, "clean", False)]), {})
        if content:
            examples.write_text(content)
        aside = run.set_aside(0)
        assert not examples.exists()
        assert not content or (examples.parent / aside.name).read_text() == content
    assert sorted(path.name for path in examples.parent.iterdir()) == ["part-00000.1.damaged", "part-00000.2.damaged"]


def test_the_first_process_makes_the_manifest(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert run.create(small_manifest(command="first"))["command"] == "first"
    assert run.create(small_manifest(command="second"))["command"] == "first"


def _create(path, number, results):
    results.put(RunFolder(Path(path)).create(small_manifest(command=str(number)))["command"])


def test_processes_that_start_at_once_agree_on_one_manifest(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    crowd = [context.Process(target=_create, args=(tmp_path / "run", n, results)) for n in range(6)]
    for process in crowd:
        process.start()
    seen = {results.get(timeout=60) for _ in crowd}
    for process in crowd:
        process.join()
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[]", "schema version"),
        (b'{"schema_version": 99}', "99"),
        (b'{"schema_version": 1}', "status is missing"),
    ],
)
def test_a_bad_manifest_gets_one_line(tmp_path, content, words):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=words):
        RunFolder(tmp_path).manifest()


def test_a_folder_without_manifest_is_no_run(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        RunFolder(tmp_path).manifest()


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "no space left.*same command"), (errno.EROFS, "cannot write.*runs_dir")]
)
def test_a_full_or_read_only_disk_gets_one_line_and_leaves_the_old_file(tmp_path, monkeypatch, number, words):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(run_folder.os, "fsync", fail)
    with pytest.raises(UserError, match=words):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_runs_are_found_and_private_folders_are_not_looked_into(tmp_path):
    for name in ("b/1", "a/2", "_trained/3", "a/2/below"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text(json.dumps({}))
    assert [run.path.relative_to(tmp_path).as_posix() for run in find_runs(tmp_path)] == ["a/2", "b/1"]


def test_links_to_run_folders_are_followed_once(tmp_path):
    place = tmp_path / "elsewhere" / "run"
    place.mkdir(parents=True)
    (place / "run.json").write_text("{}")
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "a").symlink_to(place)
    (runs / "b").symlink_to(place)
    (runs / "loop").symlink_to(runs)
    assert [run.path for run in find_runs(runs)] == [runs / "a"]


def test_the_tally_counts_by_hand(tmp_path):
    run = RunFolder(tmp_path)
    run.write_part(
        0,
        table(
            [(1, "clean", False), (2, "clean", True), (3, "clean", False), (4, "clean", False)]  # noqa: RUF005
            + [(1, "a/true", False), (3, "a/true", True), (4, "a/true", False)]
            + [(1, "a/other", False)]  # no record of sample 4: it does not pass
        ),
        {"clean": 1.0, "a/true": 2.0},
    )
    run.write_part(
        1, table([(5, "clean", False), (5, "a/true", False, "crash")]), {"clean": 1.0}
    )  # an error does not pass either
    total = summarize(run, ["clean", "a/true", "a/other"])
    assert (total.samples, total.clean, total.robust) == (5, 4, 1)
    assert total.survivors == {"clean": 4, "a/true": 2, "a/other": 1}
    assert total.cost["a/true"] == {"attacked": 4, "forwards": 20, "backwards": 0, "seconds": 2.0}
    assert total.errors == {"crash": 1}

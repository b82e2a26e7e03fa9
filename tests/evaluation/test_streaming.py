"""Data that fail half way, and disks that are full: one line, and what was done stays."""

import errno
import os
from collections import namedtuple

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import save_file

from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError
from gauntlet.evidence import example_storage
from gauntlet.evidence.run_folder import RunFolder, find_runs
from gauntlet.jobs.attack_job import evaluate
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.system import atomic_file
from tests.data.conftest import _pictures, _png, _write_parquet

Usage = namedtuple("Usage", "total used free")
CHUNK, COUNT = 8, 24


@pytest.fixture
def images(tmp_path):
    """A Parquet file of three row groups, and a network for its images."""
    data = [_png(image) for image in _pictures(COUNT, channels=1)]
    path = _write_parquet(tmp_path / "images" / "test.parquet", data, [0] * COUNT, group=CHUNK)
    save_file(SmallCNN(classes=10, channels=1, size=8).state_dict(), tmp_path / "network.safetensors")
    return path


def attempt(folder, *more, workers=1):
    GlobalHydra.instance().clear()
    words = [
        "attack=pgd", "attack.steps=2", "dataset=parquet", f"dataset.path={folder / 'images'}", "dataset.channels=1",
        "dataset.size=8", f"checkpoint={folder / 'network.safetensors'}", f"runtime.chunk={CHUNK}",
        f"runtime.workers={workers}", "runtime.progress=false", f"runs_dir={folder / 'runs'}", *more,
    ]  # fmt: skip
    with initialize_config_dir(CONF, version_base=None):
        return evaluate(compose("run", words), {"attack": "pgd", "defense": "none"}, "python run.py")


def refused(folder, *words, **options):
    with pytest.raises(UserError) as caught:
        attempt(folder, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def left(folder):
    (run,) = find_runs(folder / "runs")
    assert run.manifest()["status"] == "running"
    return sorted(run.present())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_and_the_chunks_before_it_stay(images, tmp_path, workers):
    data = [_png(image) for image in _pictures(COUNT, channels=1)]
    data[19] = data[19][:50]
    _write_parquet(images, data, [0] * COUNT, group=CHUNK)
    refused(tmp_path, f"{images}, row 19: the image cannot be decoded", "dataset.indices", workers=workers)
    assert left(tmp_path) == [0, 1]


def test_images_that_change_half_way_are_refused(images, tmp_path, monkeypatch):
    write = RunFolder.write_part

    def change(run, chunk, table, seconds):
        write(run, chunk, table, seconds)
        if chunk == 0:
            images.write_bytes(images.read_bytes()[:-1])

    monkeypatch.setattr(RunFolder, "write_part", change)
    refused(tmp_path, f"{images} was changed while it was in use", "run the same command again", workers=0)
    assert left(tmp_path) == [0]


def test_a_disk_that_fills_up_costs_one_line_and_the_same_command_goes_on(images, tmp_path, monkeypatch):
    write = atomic_file._write_synced

    def full(path, data):
        if "part-00001.parquet" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(atomic_file, "_write_synced", full)
    refused(tmp_path, "no space left for", "part-00001.parquet", "run the same command to go on")
    assert left(tmp_path) == [0]
    monkeypatch.setattr(atomic_file, "_write_synced", write)
    done = attempt(tmp_path)
    assert done.manifest["status"] == "done"
    assert (done.summary.samples, sorted(done.run.present())) == (COUNT, [0, 1, 2])


def test_a_disk_without_room_is_refused_before_any_record(images, tmp_path, monkeypatch):
    monkeypatch.setattr(example_storage.shutil, "disk_usage", lambda _: Usage(10**9, 0, 50_000))
    refused(tmp_path, "0.1 MB free, this run may write up to", "runtime.keep=broken", "or another runs_dir=DIR")
    assert left(tmp_path) == []
    monkeypatch.setattr(example_storage.shutil, "disk_usage", lambda _: Usage(10**9, 0, 10**6))
    assert attempt(tmp_path).manifest["status"] == "done"

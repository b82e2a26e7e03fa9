"""Several devices share the chunks of a run, and leave the same records and the same report as one."""

import sys

import pytest
from hydra import compose, initialize_config_dir

from gauntlet.config.runtime import Runtime
from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError
from gauntlet.jobs.attack_job import evaluate
from gauntlet.jobs.certification_job import certify
from gauntlet.jobs.device_workers import shares

SHARED = ["dataset.limit=20", "runtime.chunk=4", "runtime.progress=false"]


def config(runs, *words):
    with initialize_config_dir(CONF, version_base=None):
        return compose("run", [*SHARED, f"runs_dir={runs}", *words])


@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu"], ["cpu"] * 7])
@pytest.mark.parametrize(("shards", "shard"), [(1, 0), (3, 1)])
def test_every_chunk_of_a_process_is_in_one_share(devices, shards, shard):
    mine = shares(Runtime(devices=devices, shards=shards, shard=shard), chunks=5)
    taken = [chunk for each in mine for chunk in range(5) if chunk % each.shards == each.shard]
    assert sorted(taken) == [chunk for chunk in range(5) if chunk % shards == shard]
    assert len(mine) == min(len(devices), 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "words"),
    [(evaluate, ["attack=pgd", "attack.steps=3"]), (certify, ["certifier=crown", "~attack", "threat.eps=0.02"])],
)
def test_records_are_those_of_a_single_run(tmp_path, capfd, job, words):
    one = job(config(tmp_path / "one", *words), {}, "")
    two = job(config(tmp_path / "two", *words, "runtime.devices=[cpu,cpu]"), {}, "")
    assert two.manifest["status"] == one.manifest["status"] == "done"
    assert two.manifest["config_hash"] == one.manifest["config_hash"]
    assert two.run.present() == one.run.present() == set(range(5))
    for chunk in range(5):
        assert two.run.read_part(chunk).equals(one.run.read_part(chunk))
    assert two.manifest["flags"] == one.manifest["flags"]
    assert len(two.manifest["made_by"]) == len(one.manifest["made_by"])
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_the_chunks_of_a_worker_that_dies_are_done_here(tmp_path, monkeypatch, caplog):
    (tmp_path / "mortal.py").write_text(
        "import multiprocessing, os\n"
        "from torch import nn\n"
        "def make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "if multiprocessing.parent_process() is not None: os._exit(7)\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    own = ["~model", "+model._target_=mortal.make", "trusted_packages=[mortal]", "checkpoint=included", "attack=fgsm"]
    done = evaluate(config(tmp_path / "runs", *own, "runtime.devices=[cpu,cpu]"), {}, "")
    assert done.manifest["status"] == "done"
    assert done.run.present() == set(range(5))
    assert "the worker on cpu ended early (exit status 7); its chunks are done here" in caplog.messages


@pytest.mark.slow
def test_a_mistake_is_told_once_before_any_worker_starts(tmp_path):
    with pytest.raises(UserError, match="there are 359 images"):
        evaluate(config(tmp_path, "dataset.limit=9999", "runtime.devices=[cpu,cpu]"), {}, "")
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".parquet"]

"""Trackers, fed from a run folder and read back with W&B's own reader."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from gauntlet.commands import wandb_sync
from gauntlet.errors import UserError
from gauntlet.evidence.published import published
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import rows
from gauntlet.metrics.attack_summary import summarize
from gauntlet.system.atomic_file import write_atomically
from gauntlet.tracking import Wandb, wandb_connection
from gauntlet.tracking.example_images import examples, picture
from gauntlet.tracking.sweep_name import LONGEST, name

STAGES = ["clean", "pma/true", "pma/base"]
SAMPLES, CHUNK = 12, 6
BROKEN = {0: "clean", 1: "pma/true", 4: "pma/true", 7: "pma/true", 8: "pma/base", 9: "clean", 10: "pma/true"}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No settings of the user's."""
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "WANDB_INIT_TIMEOUT"):
        monkeypatch.delenv(variable, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(home))
    wandb_connection._answers.cache_clear()


@pytest.fixture
def run(tmp_path):
    """An evaluation of 12 samples in two chunks, with the stage at which each sample of `BROKEN` fell."""
    folder = RunFolder(tmp_path / "runs" / "digits" / "linf-8-255" / "mixing" / "pma" / "0123456789ab")
    rng = np.random.default_rng(0)
    for chunk in range(SAMPLES // CHUNK):
        left = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK)
        columns = []
        for stage in STAGES:
            down = np.array([BROKEN.get(sample) == stage for sample in left.tolist()])
            columns.append((stage, left, down))
            left = left[~down]
        folder.write_part(chunk, _rows(columns), dict.fromkeys(STAGES, 0.5))
        found = [(sample, number) for number, (_, ids, down) in enumerate(columns[1:]) for sample in ids[down]]
        x = rng.uniform(size=(len(found), 1, 8, 8)).astype(np.float32)
        z = (x + np.where(x > 0.5, -0.1, 0.1)).astype(np.float32)
        samples, stages = (np.array(column) for column in zip(*found, strict=True))
        tensors = {"sample": samples.astype(np.int64), "stage": stages.astype(np.uint8), "x": x, "z": z}
        write_atomically(folder.adversarial_path(chunk), save(tensors))
    folder.create(_manifest())
    return folder


@pytest.fixture
def server():
    """Address of a server that refuses everything."""

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_error(403)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def _rows(columns):
    sample = np.concatenate([ids for _, ids, _ in columns])
    broken = np.concatenate([down for _, _, down in columns])
    stage = [stage for stage, ids, _ in columns for _ in ids]
    attacked = np.array([name != "clean" for name in stage])
    constant = {"label": 3, "clean_pred": 3, "zero_gradients": 0, "bad_gradients": 0, "error": None}
    return rows(
        {name: [value] * len(sample) for name, value in constant.items()}
        | {
            "sample": sample,
            "stage": stage,
            "broken": broken,
            "pred": np.where(broken, 5, 3),
            "distance": attacked * 0.1,
        }
        | {
            "margin": np.where(broken, -1.0, 1.0).astype(np.float32),
            "forwards": 1 + 10 * attacked,
            "backwards": 10 * attacked,
        }
    )


def _manifest():
    return {
        "schema_version": 1,
        "status": "done",
        "kind": "attack",
        "name": {
            "dataset": "digits",
            "threat": "linf-8-255",
            "defense": "mixing",
            "attack": "pma",
            "model": "small_cnn",
        },
        "command": "python run.py attack=pma defense=mixing",
        "config": {"attack": {"_target_": "gauntlet.attacks.pma.PMA", "steps": 10}, "seed": 0},
        "config_hash": "0123456789ab",
        "card": {"summary": "Two networks."},
        "chunk": 256,
        "chunks": 1,
        "device": "cpu",
        "victim": "ba9876543210",
        "threat": {"norm": "linf", "eps": "8/255", "radius": 8 / 255, "low": 0.0, "high": 1.0},
        "heads": "declared",
        "dataset": {"name": "digits", "digest": "sha256:00", "selection": "all", "samples": SAMPLES, "classes": 10},
        "weights": {"base": "sha256:11"},
        "stages": STAGES,
        "flags": [{"name": "zero-gradients", "detail": "pma/true: 3 of 9"}],
        "failures": [],
    }


def _track(tracker, run):
    manifest = run.manifest()
    tracker.evaluation(run, manifest, summarize(run, manifest["stages"]))


def _read(folder: Path, *flags):
    """What W&B's reader finds in the only run of a folder."""
    (path,) = folder.glob("wandb/*run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *flags, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return path, (json.loads(out) if flags else [json.loads(line) for line in out.splitlines()])


def _warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("gauntlet")]


def _contents(folder: Path):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_evaluation_reads_back(run, tmp_path, caplog, capfd):
    before = _contents(run.path)
    _track(Wandb(str(tmp_path / "w"), group="a sweep", images=3), run)
    assert not _warnings(caplog)
    assert capfd.readouterr() == ("", "")
    assert _contents(run.path) == before

    path, found = _read(tmp_path / "w", "--summary")
    assert (found["run_id"], found["exit_code"], found["project"]) == ("0123456789ab", 0, "gauntlet")
    assert found["name"] == "mixing pma digits linf 8/255"
    assert found["config"]["attack"]["steps"] == 10
    assert found["config"]["name"]["defense"] == "mixing"
    assert found["config"]["evidence"]["victim"] == "ba9876543210"
    total = summarize(run, STAGES)
    shown = found["summary"]
    assert (shown["samples"], shown["clean"], shown["robust"]) == (12, total.clean / 12, total.robust / 12)
    assert [shown["robust_low"], shown["robust_high"]] == pytest.approx(total.interval)
    assert shown["stage"]["pma/true"]["survivors"] == total.survivors["pma/true"]
    assert (shown["stage"]["pma/true"]["forwards"], shown["stage"]["pma/true"]["seconds"]) == (11, 1)
    assert shown["flags"] == ["zero-gradients: pma/true: 3 of 9"]

    stages = json.loads((path / "files" / shown["stages"]["path"]).read_text())
    assert stages["columns"][:3] == ["stage", "attacked", "survivors"]
    assert [row[0] for row in stages["data"]] == STAGES
    assert stages["data"][2][1:3] == [total.cost["pma/base"]["attacked"], total.robust]

    pictures = json.loads((path / "files" / shown["examples"]["path"]).read_text())
    assert len(pictures["data"]) == 3
    assert pictures["columns"][-3:] == ["clean", "adversarial", "difference"]
    first = dict(zip(pictures["columns"], pictures["data"][0], strict=True))
    assert (first["sample"], first["stage"], first["pred"]) == (1, "pma/true", 5)
    assert first["largest"] == pytest.approx(0.1)


def test_the_records_are_an_artifact_and_all_files_lie_in_one_folder(run, tmp_path):
    _track(Wandb(str(tmp_path / "w"), group="a sweep"), run)
    _, lines = _read(tmp_path / "w")
    (begin,) = (line["run"] for line in lines if line["type"] == "run")
    assert (begin["run_group"], begin["job_type"]) == ("a sweep", "attack")
    artifacts = {line["artifact"]["name"]: line["artifact"]["manifest"] for line in lines if line["type"] == "artifact"}
    files = {file["path"]: file["local_path"] for file in artifacts["records-0123456789ab"]["contents"]}
    assert set(files) == {"run.json", "records/part-00000.parquet", "records/part-00001.parquet"}
    assert files["records/part-00001.parquet"] == str(run.part_path(1))
    assert json.loads(Path(files["run.json"]).read_text()) == published(run.manifest())
    assert Path(files["run.json"]).is_relative_to(tmp_path / "w")
    media = [file["path"] for file in artifacts["run-0123456789ab-examples"]["contents"]]
    assert sum(path.endswith(".png") for path in media) == 3 * 5
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_a_failed_evaluation_does_not_look_finished(run, tmp_path):
    run.update(run.manifest() | {"status": "failed", "failures": ["RuntimeError: no"]})
    _track(Wandb(str(tmp_path / "w"), images=0), run)
    _, found = _read(tmp_path / "w", "--summary")
    assert (found["exit_code"], found["summary"]["failures"]) == (1, ["RuntimeError: no"])
    assert "examples" not in found["summary"]


def test_online_without_a_key_keeps_the_run_offline_with_one_warning(run, tmp_path, caplog):
    _track(Wandb(str(tmp_path / "w"), mode="online"), run)
    (message,) = _warnings(caplog)
    assert "no API key" in message
    assert len(list(tmp_path.glob("w/wandb/offline-run-*/run-0123456789ab.wandb"))) == 1


@pytest.mark.parametrize(("answers", "cause"), [(False, "does not answer"), (True, "403")])
def test_a_server_that_cannot_be_had_costs_one_warning(run, tmp_path, caplog, monkeypatch, server, answers, cause):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", server if answers else "http://127.0.0.1:1")
    wandb_connection.wandb().teardown()  # W&B reads its settings once
    _track(Wandb(str(tmp_path / "w")), run)
    (message,) = _warnings(caplog)
    assert cause in message
    assert len(list(tmp_path.glob("w/wandb/offline-run-*/run-0123456789ab.wandb"))) == 1


def test_a_folder_that_cannot_be_written_costs_one_warning(run, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    _track(Wandb(str(tmp_path / "file" / "w")), run)
    (message,) = _warnings(caplog)
    assert "evidence is complete" in message
    assert "\n" not in message


def test_a_training_is_logged(tmp_path, caplog):
    tracker = Wandb(str(tmp_path / "w"))
    with tracker.training("digits-smallcnn", "f" * 64, {"model": {"width": 8}}) as log:
        for epoch in (1, 2):
            log.log({"training/loss": 1 / epoch}, step=epoch)
    assert not _warnings(caplog)
    _, found = _read(tmp_path / "w", "--summary")
    assert (found["run_id"], found["exit_code"], found["step"]) == ("f" * 12, 0, 2)
    assert (found["summary"]["training/loss"], found["config"]) == (0.5, {"model": {"width": 8}})


def test_a_training_outlives_its_log(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with Wandb(str(tmp_path / "file")).training("a", "b" * 64, {}) as log:
        log.log({"training/loss": 1.0}, step=1)
    assert len(_warnings(caplog)) == 1
    with Wandb(str(tmp_path / "w")).training("a", "b" * 64, {}) as log:
        log.run = type("Broken", (), {})()
        for epoch in (1, 2):
            log.log({"training/loss": 1.0}, step=epoch)
    assert len(_warnings(caplog)) == 2


def test_a_failed_training_fails_as_it_would_alone(tmp_path, caplog):
    with pytest.raises(UserError, match="went to NaN"), Wandb(str(tmp_path / "w")).training("a", "c" * 64, {}):
        raise UserError("training went to NaN")
    assert not _warnings(caplog)
    assert _read(tmp_path / "w", "--summary")[1]["exit_code"] == 1


def test_nothing_is_imported_without_use():
    code = (
        "import sys; from gauntlet.tracking import NoTracker, Wandb; Wandb('w')\n"
        "NoTracker().evaluation(None, {}, None)\n"
        "with NoTracker().training('a', 'b', {}) as log: assert log is None\n"
        "assert not {'wandb', 'torch'} & set(sys.modules)\n"
        "import gauntlet.jobs.attack_job, gauntlet.jobs.training_job\n"
        "from gauntlet.sanity_checks.model import _Dtypes\n"
        "import torch\n"
        "with _Dtypes() as seen: torch.zeros(1).half()\n"
        "assert seen.seen == 'float16'\n"
        "assert not {'wandb', 'torchvision', 'torch._dynamo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_bad_option_is_refused():
    with pytest.raises(UserError, match=r"logger\.mode='on' is unknown"):
        Wandb("w", mode="on")
    with pytest.raises(UserError, match=r"logger\.images=-1"):
        Wandb("w", images=-1)


def test_a_closed_port_does_not_answer_and_an_error_page_does(server):
    assert wandb_connection._answers(server)
    assert not wandb_connection._answers("http://127.0.0.1:1")


def test_pictures_show_what_is_in_the_evidence(run):
    found = examples(run, STAGES, 100)
    assert {e.sample: e.stage for e in found} == {k: v for k, v in BROKEN.items() if v != "clean"}
    one = found[0]
    assert one.clean.shape == one.difference.shape == (96, 96)
    assert one.largest == pytest.approx(0.1, abs=1e-6)
    assert set(np.unique(one.difference[one.clean > 153])) == {0}
    assert examples(run, STAGES, 0) == []


def test_a_picture_keeps_large_images_and_colours():
    x = np.zeros((3, 2, 200), np.float32)
    x[0] = 1
    assert picture(np.repeat(x, 60, 1)).shape == (120, 200, 3)
    assert picture(np.repeat(x, 60, 1))[0, 0].tolist() == [255, 0, 0]
    assert picture(np.full((2, 48, 48), 0.5, np.float32)).shape == (96, 96)


def test_a_sweep_is_named_by_its_command():
    assert name(["attack=pgd"]) is None
    assert name(["-m", "attack=pgd,pma", "logger=wandb"]) == "attack=pgd,pma"
    long = name(["--multirun", *(f"seed={number}" for number in range(40))])
    assert len(long) == LONGEST
    assert long != name(["--multirun", *(f"seed={number}" for number in range(41))])


def test_one_command_finds_what_workers_kept_offline(run, tmp_path, capsys, monkeypatch):
    runs = tmp_path / "runs"
    _track(Wandb(str(runs / "_wandb"), images=0), run)
    run.update(run.manifest() | {"config_hash": "fedcba987654"})
    _track(Wandb(str(runs / "_wandb"), images=0), run)
    (runs / "_wandb" / "wandb" / "offline-run-20260101_000000-empty").mkdir()  # its process died before it wrote
    first, second = sorted(
        path for path in (runs / "_wandb" / "wandb").glob("offline-run-*") if any(path.glob("*.wandb"))
    )
    assert wandb_sync.main([str(runs), "--dry-run"]) == 0
    assert capsys.readouterr().out == (f"2 offline runs wait in {runs}, 0 were sent\nwandb sync {first} {second}\n")
    words = [sys.executable, "-m", *wandb_sync.command([first, second]), "--dry-run"]
    said = subprocess.run(words, capture_output=True, text=True, check=True)  # W&B takes them, and asks no server
    assert "Would sync 2 run(s)" in said.stdout + said.stderr
    without = {name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"}
    without |= {"HOME": str(tmp_path), "PYTHONPATH": str(Path(wandb_sync.__file__).parents[2])}
    asked = [sys.executable, "-m", "gauntlet", "sync", str(runs)]  # in a process that has seen no key
    refused = subprocess.run(asked, env=without, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = "error: no API key here; log in once with `wandb login`, or set WANDB_API_KEY, then try again\n"
    assert (refused.returncode, refused.stderr) == (1, said)

    (marked,) = first.glob("*.wandb")
    marked.with_suffix(".wandb.synced").touch()  # as W&B does
    assert wandb_sync.main([str(runs / "_wandb"), "--dry-run"]) == 0
    assert f"1 offline run waits in {runs / '_wandb'}, 1 was sent\nwandb sync {second}\n" == capsys.readouterr().out

    called = []
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(
        wandb_sync.subprocess, "run", lambda words: called.append(words) or subprocess.CompletedProcess(words, 7)
    )
    assert wandb_sync.main([str(runs)]) == 7
    assert called == [[sys.executable, "-m", "wandb", "sync", str(second)]]


def test_nothing_to_send_and_no_folder(tmp_path, capsys):
    assert wandb_sync.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"0 offline runs wait in {tmp_path}, 0 were sent\n"
    assert wandb_sync.main([str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'} is not a folder")

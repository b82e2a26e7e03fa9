"""A lock that no dead process can hold: killed, suspended, or on a machine that is gone."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest

from gauntlet.errors import UserError
from gauntlet.system import lock, progress
from gauntlet.system.lock import holder, owner_of, sole_owner, whoami

ROOT = Path(__file__).parents[2]
HOLDS = """
import sys, time
from pathlib import Path
from gauntlet.system import lock as ownership
ownership.BEAT = 0.05
with ownership.sole_owner(Path(sys.argv[1]), "it", None):
    print("held", flush=True)
    time.sleep(100)
"""
OTHER = "process 7 on another machine"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "LEASE", 3.0)


@pytest.fixture
def owner(tmp_path):
    """A process that holds the lock `it` of the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def until(true):
    end = time.monotonic() + 60
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def elsewhere(folder, age=0.0):
    """Leave the file of an owner on another machine."""
    path = folder / "it.owner"
    path.write_text(f"{OTHER}\nits work 45 %\n")
    (folder / "it.lock").touch()
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_it_is_held_named_and_given_back(tmp_path):
    with sole_owner(tmp_path, "it", "; wait"), progress.Bar(desc="a", total=8, initial=0, unit="b", shown=False) as bar:
        assert holder(tmp_path, "it").who == whoami()
        bar.update(2)
        until(lambda: holder(tmp_path, "it").doing.startswith("a 25 %, "))
        with pytest.raises(UserError, match=rf"^{whoami()} is working on {tmp_path}; wait$"):
            sole_owner(tmp_path, "it", "; wait").__enter__()
    assert holder(tmp_path, "it") is None
    assert [path.name for path in tmp_path.iterdir()] == ["it.lock"]


def test_a_killed_owner_holds_nothing(owner, tmp_path):
    assert holder(tmp_path, "it").who == f"process {owner.pid} on {socket.gethostname()}"
    owner.kill()
    owner.wait()
    assert holder(tmp_path, "it") is None
    with sole_owner(tmp_path, "it", "; wait"):
        assert owner_of(tmp_path, "it").who == whoami()


def test_a_suspended_owner_loses_its_lease_and_does_not_take_it_back(owner, tmp_path, caplog):
    with pytest.raises(UserError, match="is working on"):
        sole_owner(tmp_path, "it", "; wait").__enter__()
    owner.send_signal(signal.SIGSTOP)
    until(lambda: holder(tmp_path, "it") is None)
    with sole_owner(tmp_path, "it", "; wait"):
        assert "has been silent for" in caplog.text
        owner.send_signal(signal.SIGCONT)
        time.sleep(0.3)
        assert holder(tmp_path, "it").who == whoami()


def test_a_machine_that_is_gone_holds_nothing_though_the_file_server_keeps_its_lock(tmp_path):
    elsewhere(tmp_path, age=100)
    with filelock.FileLock(tmp_path / "it.lock"):
        assert holder(tmp_path, "it") is None
        with sole_owner(tmp_path, "it", "; wait"):
            assert owner_of(tmp_path, "it").who == whoami()


def test_an_owner_on_a_machine_that_shares_no_locks_is_seen_by_its_lease(tmp_path, monkeypatch):
    path = elsewhere(tmp_path)
    monkeypatch.setattr(lock, "BEAT", 10)
    assert holder(tmp_path, "it").doing == "its work 45 %"
    ended = threading.Event()

    def renew():
        while not ended.wait(0.01):
            os.utime(path)

    owner = threading.Thread(target=renew)
    owner.start()
    try:
        with pytest.raises(UserError, match=f"{OTHER} is working on"):
            sole_owner(tmp_path, "it", "; wait").__enter__()
    finally:
        ended.set()
        owner.join()  # a process may leave a child that renews once more
    monkeypatch.setattr(lock, "BEAT", 0.05)
    with sole_owner(tmp_path, "it", "; wait"):  # nobody has renewed it while we looked
        assert owner_of(tmp_path, "it").who == whoami()


def test_a_disk_that_is_full_takes_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match=r"No space left on device\); free some space, then run the same command"):
        sole_owner(tmp_path, "it", "; wait").__enter__()
    with filelock.FileLock(tmp_path / "it.lock").acquire(timeout=0):
        pass

"""A named pipe in place of any file that is read ends in one line, never in a hang."""

import os
import signal

import numpy as np
import pytest

from gauntlet.cluster.sweep_jobs import _last_line
from gauntlet.commands.certification_log import read as read_log
from gauntlet.commands.ship_weights import ship
from gauntlet.data.imagefolder import ImageFolder
from gauntlet.data.parquet import Parquet
from gauntlet.errors import UserError
from gauntlet.evaluation.universal_fit import _kept, _saved_state
from gauntlet.evidence.adversarial_set import AdversarialSet
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.training import history
from gauntlet.training.loop import BEST
from gauntlet.training.trained_network import PART

PATIENCE = 20
"""Seconds after which a reader that waits for the other end of a pipe is interrupted."""


@pytest.fixture(autouse=True)
def bound():
    def late(*_):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


def refused(read, *given):
    with pytest.raises(UserError) as caught:
        read(*given)
    assert "\n" not in str(caught.value)
    assert "regular file" in str(caught.value)


def test_the_log_that_a_job_names(tmp_path):
    assert _last_line(pipe(tmp_path / "log")) == ""
    (tmp_path / "text").write_text("first\r50 %\rlast\n\n")
    assert _last_line(tmp_path / "text") == "last"


def test_stored_examples(tmp_path):
    run = RunFolder(tmp_path)
    pipe(run.adversarial_path(0))
    refused(run.read_staged_examples, 0)


def test_a_part_of_an_adversarial_set(tmp_path):
    one = AdversarialSet(tmp_path)
    pipe(one.part_path(0))
    refused(one.read, 0)
    refused(one.samples, 0)


def test_the_history_of_a_training_and_what_is_shipped(tmp_path):
    pipe(tmp_path / history.HISTORY)
    refused(history.read, tmp_path)
    pipe(tmp_path / PART)
    (tmp_path / BEST).touch()
    refused(ship, tmp_path, "name")
    (tmp_path / history.HISTORY).unlink()
    kept = history.Kept(1, 0.9, 0.5)
    history.History([], kept, kept).write(tmp_path)
    refused(ship, tmp_path, "name")


def test_a_perturbation_and_its_state_are_fitted_anew(tmp_path, caplog):
    place = pipe(tmp_path / "key.safetensors")
    assert _kept(place) is None
    assert _saved_state(place, "cpu") is None
    assert caplog.text.count("no regular file") == 2


def test_parquet(tmp_path):
    pipe(tmp_path / "test.parquet")
    refused(Parquet(path=str(tmp_path)).open, "test")
    refused(Parquet(path=str(tmp_path / "test.parquet")).open, "test")


def test_an_image_of_a_folder(tmp_path):
    pipe(tmp_path / "test" / "0" / "a.png")
    (tmp_path / "test" / "1").mkdir()
    (tmp_path / "test" / "1" / "b.png").write_bytes(b"")
    source = ImageFolder(path=str(tmp_path), classes=2, name="own", size=8).open("test").source
    refused(source.digest)
    refused(source.images, np.arange(1))


def test_a_certification_log(tmp_path):
    refused(read_log, pipe(tmp_path / "log.tsv"))

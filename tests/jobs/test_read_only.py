"""A finished run is reported where nothing can be written."""

import os

import pytest

from gauntlet.errors import UserError
from gauntlet.jobs import chunk_runner
from tests.verification.test_verify import made


def test_a_finished_run_on_a_disk_that_only_reads_is_reported(tmp_path, monkeypatch):
    run = made(tmp_path, "dataset.limit=8", "runtime.chunk=4")

    def refuse(*_, **__):
        raise UserError("cannot write")

    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(chunk_runner, "sole_owner", refuse)
    assert made(tmp_path, "dataset.limit=8", "runtime.chunk=4") == run
    run.update(run.manifest() | {"status": "running"})
    with pytest.raises(UserError, match="cannot write"):
        made(tmp_path, "dataset.limit=8", "runtime.chunk=4")

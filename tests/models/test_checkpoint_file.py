"""Files that are no checkpoints are refused in one line, and no code in them is run."""

import argparse
import contextlib
import errno
import os
import pickle
import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from gauntlet.errors import UserError
from gauntlet.models import checkpoint
from gauntlet.models.small_cnn import SmallCNN


def drawn(seed):
    torch.manual_seed(seed)
    return SmallCNN(10, 1, 8, width=4)


@pytest.fixture
def trained():
    return drawn(0)


def refusal(path):
    """The one line with which the file is refused; the model stays as it was."""
    model = drawn(1)
    before = checkpoint.digest(model)
    with pytest.raises(UserError) as caught:
        checkpoint.load(model, path)
    assert checkpoint.digest(model) == before
    message = str(caught.value)
    assert "\n" not in message
    assert "\x1b" not in message
    assert str(path) in message
    return message


def test_missing_and_unreadable(tmp_path, monkeypatch):
    assert "there is no checkpoint" in refusal(tmp_path / "none.pt")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "file").write_bytes(b"PK")
    assert "cannot be read" in refusal(tmp_path / "file" / "below")
    with pytest.raises(UserError, match="there is no checkpoint"):
        checkpoint.read_metadata(tmp_path / "none.pt")

    def forbidden(self, mode):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", forbidden)
    assert "Permission denied" in refusal(tmp_path / "file")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in refusal(tmp_path / "pipe")
    assert "is no regular file" in refusal(Path("/dev/zero"))


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated(trained, tmp_path, kind):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    if kind == "safetensors":
        checkpoint.save(trained, whole, {})
    else:
        torch.save(trained.state_dict(), whole, _use_new_zipfile_serialization=kind == "zip")
    content = whole.read_bytes()
    for length in (0, 1, 8, 9, 60, 200, len(content) // 2, len(content) - 1):
        cut.write_bytes(content[:length])
        assert any(word in refusal(cut) for word in ("cut short", "empty", "neither", "code"))


def test_random_damage_never_gives_a_traceback(trained, tmp_path):
    dice = random.Random(0)
    for kind in ("zip", "legacy", "safetensors"):
        path = tmp_path / kind
        if kind == "safetensors":
            checkpoint.save(trained, path, {"a": "b"})
        else:
            torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
        whole = path.read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            for _ in range(dice.choice([1, 5, 50])):
                content[dice.randrange(min(len(content), 2000))] = dice.randrange(256)
            path.write_bytes(content)
            with contextlib.suppress(UserError):  # a changed weight may well load
                checkpoint.load(drawn(1), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"\n  <html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
        (b"GIF89a" * 20, "neither safetensors nor a PyTorch checkpoint"),
        (b"PK\x03\x04 not a zip", "cut short or damaged"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{" + b"x" * 30, "cut short or damaged"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert message in refusal(path)


class Trap:
    def __reduce__(self):
        return (os.mkdir, (os.environ["TRAP"],))


def test_code_is_never_run_inside_what_is_harmless(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    array = np.empty(1, dtype=object)
    array[0] = Trap()
    for number, content in enumerate((argparse.Namespace(lr=Trap()), array, [Trap()])):
        torch.save({"net": drawn(0).state_dict(), "beside": content}, tmp_path / str(number))
        assert "could run code" in refusal(tmp_path / str(number))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_never_run(tmp_path, monkeypatch, zipped):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": Trap()}, path, _use_new_zipfile_serialization=zipped)
    assert "holds Python objects such as posix.mkdir, and loading them could run code" in refusal(path)
    path.write_bytes(pickle.dumps(Trap()))
    assert "could run code" in refusal(path)
    assert not (tmp_path / "sprung").exists()


def test_python_objects(tmp_path, trained):
    torch.save({"state_dict": trained.state_dict(), "stop": threading.Event}, tmp_path / "a")
    assert "such as threading.Event" in refusal(tmp_path / "a")
    torch.save(trained, tmp_path / "b")
    assert "such as gauntlet.models.small_cnn.SmallCNN" in refusal(tmp_path / "b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list without a state dict"),
        (torch.zeros(1), "holds a Tensor, not a state dict"),
        ({}, "holds no weights"),
        ({"state_dict": {}}, "holds no weights"),
        ({"epoch": 3, "best": 0.5, "lr": 1, "seed": 2}, "no tensor under epoch, best, lr and 1 more"),
        ({3: torch.zeros(1)}, "no tensor under 3"),
    ],
)
def test_no_state_dict(tmp_path, content, message):
    torch.save(content, tmp_path / "w")
    assert message in refusal(tmp_path / "w")

"""`model=path/to/net.py:make`: trusted because it was typed, called with what it takes, known by its source."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gauntlet.commands.command_line import by_file
from gauntlet.config.shipped import CONF
from gauntlet.config.user_code import code_digest
from gauntlet.config.validate import checked
from gauntlet.errors import UserError
from gauntlet.jobs.setup import KEYS
from gauntlet.models.file_model import FileModel
from tests.program_server import call

ROOT = Path(__file__).resolve().parents[2]
NET = """
from torch import nn
from {blocks} import Head

def make(classes, size, bias=True):
    return nn.Sequential(nn.Flatten(), Head(size * size, classes, bias))

def broken():
    raise RuntimeError("out of order")

def number():
    return 3
"""
BLOCKS = """
from torch import nn

class Head(nn.Linear):
    pass
"""


@pytest.fixture
def net(tmp_path):
    """A file with a network, which imports another beside it."""
    blocks = f"blocks_{tmp_path.name}"
    (tmp_path / f"{blocks}.py").write_text(BLOCKS)
    path = tmp_path / f"net_{tmp_path.name}.py"
    path.write_text(NET.format(blocks=blocks))
    return path


def test_the_function_is_called_with_what_it_takes(net):
    model = FileModel(f"{net}:make", classes=7, channels=1, size=8, arguments={"bias": False})
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 7)
    assert model.model[1].bias is None
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model(x), model.model(x))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{net}:broken", "out of order"),
        ("{net}:number", "gives a int"),
        ("{net}:mak", "has no function mak; it has make, broken, number"),
        ("{net}", "must read path/to/file.py:function"),
        ("/nowhere/net.py:make", "there is no file"),
    ],
)
def test_what_does_not_work_is_said_in_one_line(net, source, said):
    with pytest.raises(UserError, match=said) as caught:
        FileModel(source.format(net=net), classes=10, channels=1, size=8)
    assert "\n" not in str(caught.value)


def test_a_file_that_fails_is_named(tmp_path):
    path = tmp_path / f"bad_{tmp_path.name}.py"
    path.write_text("import no_such_package\n")
    with pytest.raises(UserError, match="no_such_package"):
        FileModel(f"{path}:make", classes=10)


def test_typing_a_file_trusts_it():
    assert by_file(["model=a/net.py:make", "attack=pgd"]) == [
        "attack=pgd", "model=file", "model.source=a/net.py:make", "trusted_packages=[a/net.py]",
    ]  # fmt: skip
    words = by_file(["-m", "model=a.py:f,b.py:g", "trusted_packages=[mine]"])
    assert words[1:] == ["model=file", "model.source=a.py:f,b.py:g", "trusted_packages=[mine,a.py,b.py]"]
    assert by_file(["model=resnet18"]) == ["model=resnet18"]
    with pytest.raises(UserError, match="one kind at a time"):
        by_file(["model=a.py:f,resnet18"])


def composed(*words):
    with initialize_config_dir(CONF, version_base=None):
        return compose("run", list(words))


def test_a_file_that_nobody_typed_is_not_trusted(net):
    words = ["model=file", f"model.source={net}:make"]
    with pytest.raises(UserError, match=r"runs code of .*add 'trusted_packages="):
        checked(composed(*words), KEYS)
    assert checked(composed(*by_file([f"model={net}:make"])), KEYS).model.source == f"{net}:make"


def test_its_source_and_what_it_imports_are_part_of_the_run(net):
    node = OmegaConf.create({"_target_": "gauntlet.models.file_model.FileModel", "source": f"{net}:make"})
    digests = [code_digest({"model": node})]
    beside = next(net.parent.glob("blocks_*.py"))
    for path in (net, beside):
        path.write_text(path.read_text() + "\n# another\n")
        digests.append(code_digest({"model": node}))
    assert len(set(digests)) == 3


def test_it_runs_and_verification_asks_for_trust(net, tmp_path):
    run = [f"model={net}:make", "checkpoint=included", "dataset.limit=4"]
    options = ["attack=fgsm", f"runs_dir={tmp_path / 'runs'}", "runtime.progress=false", "paper=Ours", "seed=3"]
    done = call(*run, *options, script="-m gauntlet run")
    assert done.returncode == 0, done.stderr
    assert "Sequential of Flatten, Head, 650 parameters" in done.stdout
    (manifest,) = (tmp_path / "runs").rglob("run.json")
    said = json.loads(manifest.read_text())
    assert said["name"]["model"] == f"{net.name}:make"
    assert said["description"] == {"paper": "Ours"}
    refused = call(str(manifest.parent), script="-m gauntlet verify")
    assert f"add --trust {net}" in refused.stdout + refused.stderr
    trusted = call(str(manifest.parent), "--trust", str(net), script="-m gauntlet verify")
    assert trusted.returncode == 0, trusted.stdout + trusted.stderr

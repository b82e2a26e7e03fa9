"""A user's own repository, with folders called like ours, is never shadowed by ours, and never shadows ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("models", "attacks", "defenses", "training", "leaderboard", "conf", "harness", "certification")
NET = """
import torch
from utils import SCALE

class ResNet(torch.nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.users_own = torch.nn.Linear(64, classes)

    def forward(self, x):
        return SCALE * self.users_own(x.flatten(1))
"""
WORDS = [
    "attack=fgsm", "dataset.limit=4", "runtime.progress=false", "checkpoint=included", "~model", "runs_dir=out",
    "+model={_target_: models.resnet.ResNet, classes: 10}",
]  # fmt: skip
PROGRAMS = {
    "run.py": [str(ROOT / "run.py")],
    "console": ["-c", "import sys; from gauntlet.__main__ import main; sys.exit(main())", "run"],
    "module": ["-m", "gauntlet", "run"],
}


@pytest.fixture(params=[True, False], ids=["packages", "folders"])
def repository(request, tmp_path):
    """Its folders hold a broken module called like one of ours, so that importing one of those is seen."""
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
        if request.param:
            (tmp_path / folder / "__init__.py").touch()
        for name in ("pgd", "none", "small_cnn", "recipe", "build", "base", "losses"):
            (tmp_path / folder / f"{name}.py").write_text("raise RuntimeError('the wrong file')\n")
    (tmp_path / "models" / "resnet.py").write_text(NET)
    (tmp_path / "utils.py").write_text("SCALE = 3.0\n")
    return tmp_path


def call(program, repository, *words):
    path = ["."] if program == "run.py" else [".", str(ROOT)]
    return subprocess.run(
        [sys.executable, *PROGRAMS[program], *words], cwd=repository, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)}, timeout=200,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("program", "repository"),
    [("run.py", True), ("run.py", False), ("console", False), ("module", True)],
    indirect=["repository"],
    ids=["run.py-packages", "run.py-folders", "console-folders", "module-packages"],
)
def test_the_users_own_network_is_built(program, repository):
    done = call(program, repository, *WORDS, "trusted_packages=[models]")
    assert done.returncode == 0, done.stderr
    (path,) = repository.glob("out/digits/*/*/*/*/run.json")
    manifest = json.loads(path.read_text())
    assert manifest["config"]["model"]["_target_"] == "user:models.resnet.ResNet"
    assert manifest["card"]["parameters"] == 650  # of the user's linear network


@pytest.mark.parametrize("program", ["run.py"])
def test_without_trust_the_user_is_asked_which_is_meant(program, repository):
    done = call(program, repository, *WORDS)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert "trusted_packages=[models]" in done.stderr
    assert "gauntlet.models.resnet.ResNet" in done.stderr


@pytest.mark.parametrize("program", ["run.py"])
def test_ours_is_not_shadowed(program, repository):
    done = call(program, repository, "attack=pgd", "attack.steps=2", "dataset.limit=4", "runtime.progress=false")
    assert done.returncode == 0, done.stderr

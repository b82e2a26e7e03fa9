"""A new attack, defense or certifier is a class and a YAML: nothing else is touched, and the contracts find it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ATTACK = '''"""Steps along the gradient of the margin."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.losses import margin
from gauntlet.attacks.projected_ascent import BestCandidates, Step, ascend
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class Proof(Knobs, key="attack"):
    """Steps of half of eps along the gradient of the margin (Madry et al. 2018, arXiv 1706.06083).

    Args:
        steps: >= 1.
    """

    needs: ClassVar[str] = "gradient"

    steps: int = knob(20, least=1)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        best, every = BestCandidates.start(x), torch.arange(len(x), device=x.device)
        plan = [Step(margin, 0.5)] * self.steps
        ascend(head, x, y, x, plan, best, every, threat=threat, rng=rng)
        return best.z
'''

DEFENSE = '''"""A network trained on clean images, under another name."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class Proof(Defense):
    """A network trained on clean images."""

    card: ClassVar[Card] = Card("A network trained on clean images.")
'''

CERTIFIER = '''"""Interval bounds, under another name."""

from dataclasses import dataclass

from gauntlet.certification.linear_bounds import LinearBounds


@dataclass(frozen=True)
class Proof(LinearBounds):
    """Interval bounds alone."""

    method: str = "ibp"
'''


def yaml_of(name, target):
    """The YAML of a shipped choice, for another class."""
    lines = (ROOT / "conf" / name).read_text().splitlines(keepends=True)
    return "".join(f"_target_: {target}\n" if line.startswith("_target_") else line for line in lines)


KINDS = {
    "attack": {
        "attacks/proof.py": ATTACK,
        "conf/attack/proof.yaml": "# Steps along the margin\n_target_: gauntlet.attacks.proof.Proof\nsteps: 20\n",
    },
    "defense": {
        "defenses/proof.py": DEFENSE,
        "conf/defense/proof.yaml": yaml_of("defense/none.yaml", "gauntlet.defenses.proof.Proof"),
    },
    "certifier": {
        "gauntlet/certification/proof.py": CERTIFIER,
        "conf/certifier/proof.yaml": yaml_of("certifier/ibp.yaml", "gauntlet.certification.proof.Proof"),
    },
}


@pytest.fixture
def checkout(tmp_path):
    """A copy of the code, its configuration and its tests, with one more of each kind."""
    place = tmp_path / "checkout"
    place.mkdir()
    for name in ("gauntlet", "attacks", "defenses", "leaderboard", "conf", "tests", "run.py", "pyproject.toml"):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "data_0_1_0")
            shutil.copytree(ROOT / name, place / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, place / name)
    for files in KINDS.values():
        assert len(files) == 2
        for name, text in files.items():
            assert not (place / name).exists()
            (place / name).write_text(text)
    return place


def called(checkout, *words):
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, *words], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_contracts_find_one_of_each_and_they_run(checkout):
    contracts = ("tests/attacks/test_contract.py", "tests/defenses/test_contract.py", "tests/test_conf.py")
    out = called(checkout, "-m", "pytest", "-vv", "-n", "0", "-p", "no:cacheprovider", "-k", "proof", *contracts)
    for kind in KINDS:
        assert f"{kind}/proof]" in out
    assert "attacks/test_contract.py" in out
    assert "failed" not in out
    chosen = ("attack=proof", "defense=proof", "certifier=proof", "threat.eps=0.02")
    out = called(checkout, "run.py", *chosen, "dataset.limit=8", "runtime.progress=false")
    assert "proof/true" in out
    assert "certified" in out

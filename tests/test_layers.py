"""Imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("attacks", "certification", "defenses", "harness", "leaderboard", "models", "training")
MAY = {
    "attacks": (
        "attacks",
        "harness.access",
        "harness.errors",
        "harness.meter",
        "harness.rng",
        "harness.threat",
        "harness.victim",
    ),
    "certification": (
        "certification",
        "harness.binomial",
        "harness.errors",
        "harness.rng",
        "harness.threat",
        "harness.victim",
    ),
    "models": ("models", "harness.errors"),
    "training": ("training", "attacks", "harness", "models"),
    "defenses": ("defenses", "training", "attacks", "certification", "harness", "models"),
    "leaderboard": (
        "leaderboard",
        "harness.binomial",
        "harness.certificates",
        "harness.distances",
        "harness.errors",
        "harness.evidence_digest",
        "harness.interval",
        "harness.member_risks",
        "harness.queries",
        "harness.records",
    ),
    "harness": ("harness",),
}
ORCHESTRATORS = {
    "harness/checks/yardstick.py": ("attacks",),  # red flags need a yardstick attack
    "harness/checks/gradients.py": ("attacks.losses",),  # and the losses whose gradients must not vanish
    "harness/certification.py": ("certification.base",),  # what a certifier is
    "harness/deployment.py": ("models.folding",),  # the twin that is cheaper to differentiate
    "harness/universal.py": ("attacks.perturbation",),  # the state of a fit goes to disk and comes back
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        allowed = MAY[package] + ORCHESTRATORS.get(place, ())
        for name in imports(path):
            if name.split(".")[0] in (*PACKAGES, "run", "train", "tests"):
                assert any(name == it or name.startswith(f"{it}.") for it in allowed) or name == "harness", (
                    f"{place}: {name}"
                )


@pytest.mark.parametrize(
    "module",
    [
        "leaderboard.__main__",
        "harness.records",
        "harness.certificates",
        "harness.status",
        "harness.curves",
        "run",
        "train",
    ],
)
def test_torch_is_not_imported(module):
    code = f"import sys, importlib; importlib.import_module({module!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_files_stay_small():
    long = {
        p: n
        for package in PACKAGES
        for p in (ROOT / package).rglob("*.py")
        if (n := len(p.read_text().splitlines())) > 300
    }
    assert not long

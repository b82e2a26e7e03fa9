"""Attack and certifier in one job: the same records as two commands, and a bracket that holds what both found."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gauntlet.commands.run import main
from gauntlet.leaderboard.build import build
from gauntlet.metrics.bracket import Bracket

SMALL = ["defense=trades", "threat.eps=0.1", "dataset.limit=30", "runtime.progress=false", "runtime.device=cpu"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return what a command prints, run in this process."""

    def call(*words: str, folder: Path) -> str:
        monkeypatch.setattr(sys, "argv", list(sys.argv))
        assert main([*words, f"runs_dir={folder}"]) == 0
        return capsys.readouterr().out

    return call


def manifests(folder: Path) -> dict[str, dict]:
    found = [json.loads(p.read_text()) for p in sorted(folder.glob("digits/**/run.json"))]
    return {manifest["kind"]: manifest for manifest in found}


def test_a_bracket_adds_up() -> None:
    found = Bracket(samples=100, proven=40, broken=35, by="crown")
    assert found.open == 25
    assert found.words() == "40.0 to 65.0 %, 25.0 open"
    assert found.interval == pytest.approx((0.3094, 0.7364), abs=5e-5)
    assert Bracket(100, 40, 65, "crown", contradicted=5).open == 0


def test_one_job_gives_the_runs_of_two_commands_and_their_bracket(run: Callable[..., str], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    out = run("attack=pgd", "certifier=crown", *SMALL, folder=one)
    found = manifests(one)
    last = out.strip().splitlines()[-1]
    assert last.startswith("robust accuracy ")
    run("attack=pgd", *SMALL, folder=two)
    assert manifests(two)["attack"]["config_hash"] == found["attack"]["config_hash"]
    command = shlex.split(found["certificate"]["command"])[2:]
    assert not [word for word in command if word.startswith(("attack", "dataset.limit"))]
    run(*[word for word in command if not word.startswith("runs_dir")], "runtime.progress=false", folder=two)
    assert manifests(two)["certificate"]["config_hash"] == found["certificate"]["config_hash"]
    assert run("attack=pgd", "certifier=crown", *SMALL, folder=one).strip().splitlines()[-1] == last

    build(one, tmp_path / "site")
    (entry,) = json.loads((tmp_path / "site" / "board.json").read_text())["entries"]
    assert 0 < entry["proven"] <= entry["robust"]
    assert entry["proven_by"] == "crown"
    assert f"{100 * entry['proven']:.1f} to {100 * entry['robust']:.1f} %" in last
    page = (tmp_path / "site" / "index.html").read_text()
    assert f"≥ {100 * entry['proven']:.1f} proven" in page
    table = (tmp_path / "site" / "certificates.html").read_text()
    assert "it certifies the survivors of an attack" in table
    assert "<table>" not in table


def test_what_the_certifier_breaks_is_judged_and_counted(run: Callable[..., str], tmp_path: Path) -> None:
    listed = tmp_path / "listed.txt"
    listed.write_text("0\n6\n26\n")  # proven, broken at a corner of a part, proven by splits
    words = ["defense=none", "threat.eps=0.06", f"dataset.indices={listed}", *SMALL[-2:]]
    budget = ["certifier.domains=60"]
    out = run("attack=pgd", "attack.steps=1", "certifier=branch_and_bound", *words, *budget, folder=tmp_path)
    assert "robust accuracy 66.7 to 66.7 %, 0.0 open" in out
    (met,) = tmp_path.glob("digits/**/imported-branch_and_bound-*/*/run.json")
    judged = json.loads(met.read_text())
    assert judged["status"] == "done"
    assert judged["command"].startswith("gauntlet import ")

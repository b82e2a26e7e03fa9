"""`--estimate`: passes from the plan, seconds of this machine, and nothing written."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gauntlet.commands import run_estimate
from gauntlet.commands.run import main

SMALL = ["runtime.progress=false", "runtime.device=cpu", "dataset.limit=40"]


@pytest.fixture
def told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Return the lines that an estimate prints, in this process."""

    def call(*words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", list(sys.argv))
        run_estimate.sweep.clear()
        assert main([*words, *SMALL, f"runs_dir={tmp_path / 'runs'}", "--estimate"]) == 0
        assert list(tmp_path.iterdir()) == []
        return capsys.readouterr().out.splitlines()

    return call


def stage(said: list[str], name: str) -> str:
    (line,) = (each for each in said if each.startswith(f"{name} "))
    return " ".join(line.split()[1:])


def test_passes_are_those_of_the_plan_and_later_stages_may_have_none(told: Callable[..., list[str]]) -> None:
    said = told("attack=pgd", "attack.steps=3", "attack.restarts=2", "defense=trades", "runtime.chunk=16")
    assert "images    40, in 3 chunks" in said
    assert stage(said, "pgd/true").startswith("1 to 6 ")
    assert stage(said, "pgd/true").endswith(" plan")
    assert any(line.startswith("time ") and "if all go as 40 images did in a trial" in line for line in said)
    assert {"memory", "disk"} <= {line.split()[0] for line in said if line}


def test_a_suite_spreads_from_one_step_to_all_stages_in_full(told: Callable[..., list[str]], monkeypatch) -> None:
    monkeypatch.setattr(run_estimate, "BUDGET", 0.0)  # no trial
    said = told("attack=autoattack", "defense=none")
    assert stage(said, "apgd_ce/true").startswith("1 to 101 ")
    assert stage(said, "apgd_t/true").startswith("0 to 909 ")
    assert stage(said, "square/true").startswith("0 to 5,000 ")
    assert not any("trial" in line for line in said)
    said = told("attack=gauntlet", "attack.probe=20", "attack.trial=500", "attack.queries=5000", "defense=none")
    most = int(stage(said, "gauntlet/true").split()[2].replace(",", ""))
    assert most > 5520  # the queries that some samples need, and the passes with gradients


def test_an_attack_without_a_plan_is_measured_or_called_unknown(told: Callable[..., list[str]], monkeypatch) -> None:
    said = told("attack=fmn", "attack.steps=5", "threat.eps=unbounded")
    assert "no plan: least and most of 40 images in a trial" in stage(said, "fmn/true")
    monkeypatch.setattr(run_estimate, "BUDGET", 0.0)
    said = told("attack=fmn", "attack.steps=5", "threat.eps=unbounded")
    assert stage(said, "fmn/true").startswith("unknown unknown unknown no plan, and one image takes about")
    assert any(line.startswith("time      unknown") for line in said)
    assert "fitted to training images first" in stage(told("attack=uap"), "uap/true")
    assert "sets are crafted first" in stage(told("attack=mi", "+defense@surrogates.plain=none"), "mi/plain")


def test_certifiers_both_in_one_job_and_defenses_that_are_trained_first(told: Callable[..., list[str]]) -> None:
    assert stage(told("certifier=ibp", "defense=trades"), "certificate").startswith("1 to 1 ")
    both = told("attack=pgd", "certifier=ibp", "defense=trades", "threat.eps=0.05")
    assert {"pgd/true", "certificate"} <= {line.split()[0] for line in both if line}
    said = told("attack=pgd", "defense=trades", "model.width=8")
    assert said[1].startswith("estimate: unknown, since the defense is trained first")


def test_a_sweep_is_summed_up_and_leaves_no_trace(told: Callable[..., list[str]]) -> None:
    said = told("-m", "attack=fgsm,pgd", "attack.loss=ce", "defense=trades")
    assert any(line.startswith("all 2 so far: ") for line in said)
    assert not any(line.startswith("sweep of") for line in said)

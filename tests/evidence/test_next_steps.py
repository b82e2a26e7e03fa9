"""What a run advises to do after it."""

from typing import Any

import pytest

from gauntlet.evidence.next_steps import next_steps

GAUNTLET = {"_target_": "gauntlet.attacks.gauntlet.Gauntlet"}
PGD = {"name": {"attack": "pgd"}, "config": {"attack": {"_target_": "gauntlet.attacks.pgd.PGD"}}}


def manifest(**change: Any) -> Any:
    found: dict[str, Any] = {
        "status": "done",
        "command": "python run.py attack=gauntlet defense=trades attack.steps=5 runs_dir=/home/me/runs",
        "name": {"attack": "gauntlet"},
        "config": {"attack": GAUNTLET},
        "threat": {"norm": "linf", "radius": 0.1},
        "heads": "declared",
        "flags": [],
    }
    return found | change


def commands(**change: Any) -> list[str]:
    return [step.command for step in next_steps(manifest(**change), "runs/a b", "runs")]


def test_a_whole_strong_run_is_to_be_verified_and_shown() -> None:
    assert commands() == ["gauntlet verify 'runs/a b'", "gauntlet board"]


@pytest.mark.parametrize(
    ("change", "attack"),
    [
        (PGD, "gauntlet"),
        ({"config": {"attack": {**GAUNTLET, "steps": 5}}}, "gauntlet"),  # by its name alone it would do
        ({"heads": "true"}, "gauntlet"),
        ({"access": "score"}, "gauntlet"),
        ({"flags": [{"name": "zero-gradients"}]}, "gauntlet_deep"),
        ({"name": {"attack": "autoattack"}, "flags": [{"name": "dead-start"}]}, "gauntlet"),
        ({**PGD, "flags": [{"name": "dead-start"}]}, "gauntlet"),
    ],
)
def test_less_than_a_rank_needs_and_doubts_ask_for_a_stronger_attack(change: dict[str, Any], attack: str) -> None:
    first = commands(**change)[0]
    assert first == f"python run.py defense=trades runs_dir=/home/me/runs attack={attack}"


@pytest.mark.parametrize(
    "change", [{"threat": {"norm": "l0", "radius": 3}}, {"threat": {"norm": "l2", "radius": None}}]
)
def test_no_attack_is_advised_that_does_not_work_there(change: dict[str, Any]) -> None:
    assert not any("attack=" in command for command in commands(**change, **PGD))


def test_nothing_is_deeper_than_the_deepest() -> None:
    doubted = commands(name={"attack": "gauntlet_deep"}, flags=[{"name": "dead-start"}])
    assert doubted == ["gauntlet verify 'runs/a b'", "gauntlet board"]


def test_an_unfinished_or_failed_run_goes_on_by_its_own_command_first() -> None:
    for status in ("running", "failed"):
        assert commands(status=status)[0].startswith("python run.py attack=gauntlet defense=trades")
        assert not any(command.startswith("gauntlet verify") for command in commands(status=status))


def test_a_command_of_somebody_else_is_not_offered() -> None:
    assert commands(command="rm -rf /", status="failed") == ["gauntlet board"]


def test_published_steps_name_no_folder_of_a_machine() -> None:
    steps = next_steps(manifest(status="running"), "runs/x", "elsewhere", public=True)
    assert [step.command for step in steps] == [
        "python run.py attack=gauntlet defense=trades attack.steps=5",
        "gauntlet board --runs elsewhere",
    ]

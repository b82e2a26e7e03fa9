"""Ranks compare like with like: what was attacked below the floor of a table is shown and not ranked."""

import json

import pytest

from gauntlet.leaderboard.__main__ import main
from gauntlet.leaderboard.plots import tradeoff
from gauntlet.leaderboard.score import boards
from tests.leaderboard.conftest import STRONG

AUTOATTACK = {
    "_target_": "attacks.cascade.Cascade",
    "stages": {
        "apgd_ce": {"_target_": "attacks.apgd.APGD", "steps": 100, "loss": "ce", "targets": 0},
        "apgd_t": {"_target_": "attacks.apgd.APGD", "steps": 100, "loss": "dlr", "targets": 9},
        "fab_t": {"_target_": "attacks.fab.FAB", "steps": 100, "targets": 9},
        "square": {"_target_": "attacks.square.Square", "queries": 5000},
    },
}
FGSM = {"_target_": "attacks.fgsm.FGSM"}


def config(attack):
    return {"config": {"attack": attack, "seed": 0}}


def test_a_weak_attack_earns_no_rank_and_no_place_on_the_front(make, entries, runs, tmp_path, capsys):
    make(attack="fgsm", defense="fast_at", broken=[0, 1, 2], change=config(FGSM), ids=range(200))
    make(attack="gauntlet", defense="trades", broken=range(45), wrong=[199], ids=range(200))
    (board,) = boards(entries())
    assert [(entry.defense, entry.rank) for entry in board.entries] == [("trades", (1, 1)), ("fast_at", None)]
    (why,) = board.entries[1].reasons
    assert why.startswith("its attacks (fgsm) are below the floor of this table: gauntlet or AutoAttack on every head")
    chart = tradeoff(board)
    assert chart.lines == ()
    assert [(mark.label, mark.span is None) for mark in chart.marks] == [("fast_at", True), ("trades", False)]
    (board,) = boards(entries(), "any")
    assert [(entry.defense, entry.rank) for entry in board.entries] == [("fast_at", (1, 1)), ("trades", (2, 2))]
    assert main(["--runs", str(runs), "--out", str(tmp_path / "site")]) == 0
    page = (tmp_path / "site" / "index.html").read_text()
    assert "1 ranked. Ranked are those attacked by gauntlet or AutoAttack on every head" in page
    records = json.loads((tmp_path / "site" / "board.json").read_text())["entries"]
    assert [record["robust"] for record in records] == [0.77, 0.985]
    assert main(["--runs", str(runs), "--out", str(tmp_path / "site"), "--floor", "any"]) == 0
    assert "2 ranked. Accuracies" in (tmp_path / "site" / "index.html").read_text()
    capsys.readouterr()


def test_where_nothing_is_ranked_the_command_says_what_a_rank_needs(make, runs, tmp_path, capsys):
    make(attack="fgsm", change=config(FGSM))
    assert main(["--runs", str(runs), "--out", str(tmp_path / "site")]) == 0
    assert "none ranked yet; a rank needs gauntlet or AutoAttack on every head" in capsys.readouterr().out


def without(name):
    return AUTOATTACK | {"stages": {key: value for key, value in AUTOATTACK["stages"].items() if key != name}}


def weaker(name, **fields):
    return AUTOATTACK | {"stages": AUTOATTACK["stages"] | {name: AUTOATTACK["stages"][name] | fields}}


@pytest.mark.parametrize(
    ("attack", "ranked"),
    [
        (STRONG, True),
        (STRONG | {"steps": 100, "rounds": 20, "gap": 1e6}, True),
        ({"_target_": "gauntlet.attacks.gauntlet.Gauntlet"}, True),
        (STRONG | {"steps": 1}, False),
        (STRONG | {"rounds": 0}, False),
        (STRONG | {"queries": 10}, False),
        (STRONG | {"steps": "many"}, False),
        (AUTOATTACK, True),
        ({"_target_": "attacks.cascade.Cascade", "stages": {"one": FGSM, "two": STRONG}}, True),
        *((without(name), False) for name in AUTOATTACK["stages"]),
        (weaker("apgd_ce", steps=5), False),
        (weaker("apgd_t", targets=0), False),
        (weaker("apgd_ce", loss="margin"), False),
        (weaker("square", queries=1), False),
        ({"_target_": "mine.gauntlet.Gauntlet", "steps": 20}, False),
        ({"_target_": "user:attacks.gauntlet.Gauntlet", "steps": 20}, False),
        ({}, False),
        (None, False),
        ({"stages": 3}, False),
    ],
)
def test_the_floor_is_an_attack_and_its_effort_whatever_the_run_is_called(make, entries, attack, ranked):
    make(attack="gauntlet", broken=[1], change=config(attack))
    ((entry,),) = (board.entries for board in boards(entries()))
    assert (entry.rank is not None) == ranked


def test_a_floor_may_ask_for_a_verified_run(make, entries, check):
    run = make(attack="gauntlet", broken=[1])
    check(make(attack="fgsm", broken=[2], change=config(FGSM)))
    ((entry,),) = (board.entries for board in boards(entries(), "verified"))
    assert entry.rank is None
    assert entry.reasons[0].endswith("with at least their default effort, verified")
    check(run)
    ((entry,),) = (board.entries for board in boards(entries(), "verified"))
    assert entry.rank == (1, 1)


def test_what_other_runs_broke_counts_for_an_entry_at_the_floor(make, entries):
    make(attack="gauntlet", broken=[1])
    make(attack="fgsm", broken=[2], change=config(FGSM))
    ((entry,),) = (board.entries for board in boards(entries()))
    assert (entry.robust, entry.rank) == (18, (1, 1))


@pytest.mark.parametrize(("heads", "norm", "ranked"), [("true", "linf", False), ("declared", "l0", True)])
def test_all_heads_are_asked_and_norms_without_a_floor_have_none(make, entries, heads, norm, ranked):
    attack = STRONG if norm == "linf" else FGSM
    make(attack="gauntlet", heads=heads, norm=norm, eps="2", change=config(attack))
    ((entry,),) = (board.entries for board in boards(entries()))
    assert (entry.rank is not None) == ranked

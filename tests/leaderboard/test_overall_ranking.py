"""Overall rankings of synthetic evidence: three systems under three threats."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gauntlet.commands.rankings import as_csv, main
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.__main__ import main as build
from gauntlet.leaderboard.build import scored
from gauntlet.leaderboard.overall_ranking import OverallRanking, overall
from gauntlet.leaderboard.rankings_page import disputes

Make = Callable[..., RunFolder]

BROKEN = {"1/255": {"a": 2, "b": 10, "c": 18}, "4/255": {"a": 12, "b": 11, "c": 19}, "8/255": {"a": 15, "b": 16}}
"""eps -> defense -> samples broken, of 400."""


@pytest.fixture
def found(make: Make, tmp_path: Path) -> OverallRanking:
    for eps, broken in BROKEN.items():
        for defense, count in broken.items():
            make(defense=defense, eps=eps, ids=range(400), chunk=400, broken=range(20 * count))
    boards, damaged = scored(tmp_path)
    assert not damaged
    ranking = overall(boards)
    assert ranking is not None
    return ranking


def test_win_rates_count_tables_that_a_system_lacks_for_nothing(found: OverallRanking) -> None:
    """a: 1, 1/2 and 1 of the others; b: 1/2, 1 and 0; c: 0 and 0."""
    assert found.systems == ("a · small_cnn", "b · small_cnn", "c · small_cnn")
    assert found.win_rate == pytest.approx([2.5 / 3, 1.5 / 3, 0])
    assert found.covered == (3, 3, 2)
    assert found.ranked == (True, True, True)
    assert found.order == [0, 1, 2]
    assert found.dominant == 0
    rules = {rule.name: rule for rule in found.rules}
    assert rules["Kemeny"].groups == ((0,), (1,), (2,))
    assert "missing (1 of 9)" in rules["Borda"].undefined
    assert rules["mean accuracy"].undefined


def test_ranks_that_images_or_one_table_decide_are_shown_as_ranges(found: OverallRanking) -> None:
    assert found.bootstrap[2] == (3, 3)  # 40 points behind on 400 images
    assert found.bootstrap[0][0] == 1
    assert found.without_a_table[0] == (1, 1)
    assert found.without_a_table[1] == (1, 2)  # equal to the first where the last table is left out
    assert found.without_a_table[2] == (3, 3)


def test_the_command_prints_and_writes_them(
    found: OverallRanking, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--csv", str(tmp_path / "r.csv")]) == 0
    printed = capsys.readouterr().out
    assert "a · small_cnn beats every other system head to head." in printed
    assert "83.3     3/3" in printed
    assert (tmp_path / "r.csv").read_text() == as_csv(found)
    assert "1,1,1,1,1,1,,,,," in as_csv(found).splitlines()[1]


def test_tables_without_common_systems_have_no_overall_ranking(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(defense="a", eps="1/255")
    make(defense="b", eps="8/255")
    assert main([str(tmp_path)]) == 1
    assert "needs two tables" in capsys.readouterr().err


def test_the_page_says_which_rules_take_which_side(make: Make, runs: Path, tmp_path: Path) -> None:
    """Four systems over three tables, on which Borda and a majority disagree."""
    broken = {"1/255": (1, 2, 3, 4), "4/255": (1, 2, 3, 4), "8/255": (4, 1, 2, 3)}
    for eps, counts in broken.items():
        for defense, count in zip("abcd", counts, strict=True):
            make(defense=defense, eps=eps, ids=range(40), chunk=40, broken=range(4 * count))
    found = overall(scored(runs)[0])
    assert found is not None
    (first, *_) = every = disputes(found)
    assert (first.first[0], first.second[0]) == ("b", "a")
    assert "threshold" in first.before
    assert "Copeland" in first.behind
    for each in every:
        assert each.before
        assert each.behind
    assert build(["--runs", str(runs), "--out", str(tmp_path / "site")]) == 0
    text = (tmp_path / "site" / "rankings.html").read_text()
    assert "Where the rules disagree" in text
    assert "threshold" in text
    assert "rankings.html" in (tmp_path / "site" / "index.html").read_text()

"""`gauntlet compare` and the page of comparisons, on synthetic evidence."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gauntlet.commands.compare import main
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.__main__ import main as board
from gauntlet.leaderboard.compare_page import overlap_of
from gauntlet.leaderboard.comparison import compared
from gauntlet.leaderboard.entry import Entry

Make = Callable[..., RunFolder]
Scored = Callable[[], list[Entry]]


def test_two_entries_side_by_side(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 40, a is wrong on sample 0 and loses 1..9, b loses 6..25: 10 to 25 stand in a alone, 0 to 5 in b alone."""
    a = make(defense="a", ids=range(40), wrong=[0], broken=range(1, 10))
    b = make(defense="b", ids=range(40), broken=range(6, 26))
    assert main([str(a.path), str(b.path)]) == 0
    out = capsys.readouterr().out
    assert "a · small_cnn · pgd     97.50   75.00" in out
    assert "[A] - [B]      +25.00   " in out
    (pair,) = (line for line in out.splitlines() if line.startswith("[A] - [B]"))
    assert pair.split()[-3:] == ["16", "6", "0.052"]
    assert "by [A] alone: 5" in out
    assert "by [B] alone: 16" in out
    assert "by [A] and [B]: 4" in out
    assert "same class on 4 of 4" in out


def test_what_cannot_be_compared_is_refused(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    a, other = make(defense="a"), make(defense="b", eps="1/255")
    unfinished = make(defense="c", chunks=[0])
    cases = [
        ([a.path], "name two to 5 entries"),
        ([a.path, other.path], "has another threat than"),
        ([a.path, unfinished.path], "have no answer yet"),
        ([a.path, a.path.parents[2]], "there are"),
        ([a.path, a.path / "records"], "there is no attack run"),
    ]
    for folders, words in cases:
        assert main([str(folder) for folder in folders]) == 1
        err = capsys.readouterr().err
        assert words in err, err
        assert err.count("\n") == 1


def test_random_predictions_have_no_verdict_to_compare(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    change = {"coverage": "all", "protocol": {"rule": "expected", "draws": 100}}
    random = make(defense="r", stages=["pgd/true"], change=change, shares=lambda sample, stage: (0.2, 0.2))
    assert main([str(random.path), str(make(defense="a").path)]) == 1
    assert "are random: a sample has no single verdict" in capsys.readouterr().err


def test_the_page_holds_every_pair_and_what_no_script_is_needed_for(make: Make, runs: Path, tmp_path: Path) -> None:
    make(defense="a", ids=range(40), wrong=[0], broken=range(1, 10))
    make(defense="b", ids=range(40), broken=range(6, 26))
    make(defense="c", ids=range(40), broken=[39])
    make(defense="open", ids=range(40), chunks=[0])
    make(defense="alone", ids=range(40), norm="l2", eps="0.5")
    assert board(["--runs", str(runs), "--out", str(tmp_path / "site")]) == 0
    (page,) = (tmp_path / "site" / "compare").glob("*.html")  # a table of one entry has none
    text = page.read_text()
    assert "c <span" not in text.split("<h2>Differences</h2>")[0]
    for said in ("+25.0", "-47.5", "open: 32 of 40 samples have no answer yet", "4 of 4"):
        assert said in text, said
    assert page.name in (tmp_path / "site" / "index.html").read_text()


def test_the_overlap_of_chosen_entries_adds_up(make: Make, entries: Scored) -> None:
    for name, broken in (("a", range(10)), ("b", range(5, 15)), ("c", range(8, 9))):
        make(defense=name, ids=range(20), broken=broken)
    found = compared(sorted(entries(), key=lambda entry: entry.defense))
    assert found.overlap == {(0,): 5, (1,): 5, (0, 1): 4, (0, 1, 2): 1}
    lines = [(line.members, line.count) for line in overlap_of(found, [0, 1])]
    assert lines == [((0,), 5), ((1,), 5), ((0, 1), 5)]
    assert [(pair.first_only, pair.second_only) for pair in found.pairs] == [(5, 5), (0, 9), (0, 9)]

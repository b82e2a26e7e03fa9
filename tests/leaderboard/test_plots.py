"""The plot: its front, its labels, its geometry."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.chart import Axis, Chart, Line, Mark
from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.plot_labels import merged, positions
from gauntlet.leaderboard.plots import tradeoff
from gauntlet.leaderboard.score import boards
from gauntlet.leaderboard.sparkline import sparklines
from gauntlet.metrics.ranking import pareto_front

Make = Callable[..., RunFolder]


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    points = [(90.0, 10.0), (80.0, 50.0), (70.0, 40.0), (60.0, 60.0), (80.0, 50.0)]
    assert pareto_front(points) == [3, 1, 0]
    assert pareto_front([]) == []


def test_labels_avoid_points_and_the_edge() -> None:
    sides = positions([(0.5, 0.5), (0.55, 0.5), (0.99, 0.2)], ["first", "second", "third"])
    assert sides[0] != "middle right"
    assert "left" in sides[2]


def test_labels_that_would_cover_others_are_left_to_the_pointer(make: Make, entries: Callable[[], list[Entry]]) -> None:
    """Nine entries at one place: fewer labels than points, and no two of them overlap."""
    sides = positions([(0.5, 0.5)] * 9, ["a rather long name"] * 9)
    assert 0 < sum(map(bool, sides)) < 9
    assert len({side for side in sides if side}) == sum(map(bool, sides))
    bare, barred = (positions([(0.5, 0.5)], ["x"], bars) for bars in ((), [(0.3, 0.7)]))
    assert bare == barred == ["middle right"]
    make(defense="a<" * 20)
    make(defense="b", broken=[1])
    (board,) = boards(entries())
    assert "a<" * 9 + "a…" in {mark.label for mark in tradeoff(board).marks}


def test_points_at_one_place_share_a_label_of_several_lines() -> None:
    """Three of four coincide: none of them stays without its name, and the label keeps clear of the fourth."""
    points = [(0.5, 0.5), (0.9, 0.9), (0.5, 0.505), (0.51, 0.5)]
    labels = merged(points, ["a", "b", "c", "d"])
    assert labels == ["a\nc\nd", "b", "", ""]
    assert positions(points, labels)[0]
    beside = [(0.5, 0.5), (0.55, 0.44)]  # lies below the first line of a label, beside its third
    assert positions(beside, ["abc", ""]) == ["middle right", ""]
    assert positions(beside, ["abc\nabc\nabc", ""])[0] == "middle left"


def test_the_chart_tells_ranked_entries_from_others(make: Make, entries: Callable[[], list[Entry]]) -> None:
    make(defense="a<b", wrong=[0, 1], broken=range(2, 6))
    make(defense="none", broken=range(0, 18))
    make(defense="partial", chunks=[0])
    (board,) = boards(entries())
    chart = tradeoff(board)
    assert [(line.role, line.points) for line in chart.lines] == [
        ("front", [(90.0, 70.0), (90.0, 10.0), (100.0, 10.0)])
    ]
    assert [(mark.label, mark.x, mark.y, mark.span is None) for mark in chart.marks] == [
        ("partial", 100.0, 100.0, True),
        ("a<b", 90.0, 70.0, False),
        ("none", 100.0, 10.0, False),
    ]
    assert chart.marks[1].said == ("a<b", "small_cnn", "clean 90.0 %", "robust 70.0 % (48.1–85.5)")
    assert all(mark.link.startswith("entries/") for mark in chart.marks)


def test_a_chart_puts_values_where_its_axes_say() -> None:
    """A box of 404 by 302: half of an axis is half of the box, a decade of two is half of it, too."""
    linear = Axis("", 0.0, 10.0)
    chart = Chart("", linear, Axis("", 0.0, 100.0, " %"), (Line("", [(0, 0), (5, 50), (10, 100)], stepped=True),))
    (line,) = chart.lines
    assert chart.path(line) == "M62 312H264V161H466V10"
    assert chart.path(replace(line, stepped=False)) == "M62 312L264 161L466 10"
    assert chart.bars(replace(line, intervals=[(0, 50)] * 3)) == "M62 312V161M264 312V161M466 312V161"
    assert chart.reach(Mark(5, 50, (), "", (25.0, 100.0))) == ("75.5", "-151")
    log = Axis("queries", 0.0, 2.0, log=True)
    assert [log.share(value) for value in (1, 10, 100)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("axis", "texts"),
    [
        (Axis("", -2, 102, " %"), ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]),
        (Axis("", 0, 0.031), ["0", "0.01", "0.02", "0.03"]),
        (Axis("", 89.5, 99.6, " %"), ["90 %", "92 %", "94 %", "96 %", "98 %"]),
        (Axis("", 0, 0.3), ["0", "0.05", "0.1", "0.15", "0.2", "0.25", "0.3"]),
        (Axis("", 0, 3.2, log=True), ["1", "10", "100", "1,000"]),
    ],
)
def test_ticks_are_round_numbers(axis: Axis, texts: list[str]) -> None:
    assert [text for _, text in axis.ticks()] == texts


def test_a_row_shows_its_accuracy_over_eps(make: Make, entries: Callable[[], list[Entry]]) -> None:
    """Clean at 0, then one place for each eps that was attacked; a model that faced one eps has no line."""
    for eps, broken in (("4/255", range(5)), ("8/255", range(10)), ("16/255", range(20))):
        make(attack="gauntlet", eps=eps, broken=broken)
    make(attack="gauntlet", defense="b", victim="b", broken=[1])
    make(attack="gauntlet", eps="unbounded", broken=[1])
    found = sparklines(boards(entries(), "any"))
    assert {entry.eps for entry in found} == {"4/255", "8/255", "16/255"}
    for entry, spark in found.items():
        assert spark.line == "M2 2L23 6.5L44 11L86 20"
        assert spark.said == "clean 100.0, 75.0 at ε 4/255, 50.0 at ε 8/255, 0.0 at ε 16/255"
        assert spark.at == {"4/255": ("23", "6.5"), "8/255": ("44", "11"), "16/255": ("86", "20")}[entry.eps]

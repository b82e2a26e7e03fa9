"""The plot: its front, its labels, its figure."""

import json
from collections.abc import Callable

from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.plot_labels import positions
from gauntlet.leaderboard.plots import figure
from gauntlet.leaderboard.score import boards
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
    texts = {text for trace in figure(board)["data"] for text in trace.get("text") or ()}
    assert "a&lt;" * 9 + "a…" in texts


def test_the_figure_tells_ranked_entries_from_others(make: Make, entries: Callable[[], list[Entry]]) -> None:
    make(defense="a<b", wrong=[0, 1], broken=range(2, 6))
    make(defense="none", broken=range(0, 18))
    make(defense="partial", chunks=[0])
    (board,) = boards(entries())
    result = figure(board)
    roles = {trace["meta"]: trace for trace in result["data"]}
    assert list(roles) == ["front", "ranked", "unranked"]
    assert roles["ranked"]["text"] == ["a&lt;b", "none"]
    assert (roles["ranked"]["x"], roles["ranked"]["y"]) == ([90.0, 100.0], [70.0, 10.0])
    assert roles["unranked"]["marker"]["symbol"] == "circle-open"
    assert all(page.startswith("entries/") for page in roles["ranked"]["customdata"])
    json.dumps(result, allow_nan=False)
    assert "uid" not in json.dumps(result)

"""Success against queries: which runs have a curve, its steps, and where it is shown."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.build import build
from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.query_plot import query_chart

Make = Callable[..., RunFolder]
Entries = Callable[[], list[Entry]]

ASKED = {sample: 10 * (sample + 1) - 1 for sample in range(15)} | dict.fromkeys(range(15, 20), 500)
"""One more with the clean prediction: sample 0 after 10 queries, 1 after 20, ..., and the last five had 501."""


def test_the_steps_are_the_shares_of_the_samples_that_are_right(make: Make, entries: Entries) -> None:
    make(attack="square", wrong=[0], broken=range(1, 15), queries=ASKED)
    (entry,) = entries()
    (told,) = entry.queries
    assert (told.name, told.curve.wrong) == ("square", 1)
    chart = query_chart(entry.queries)
    (line,) = chart.lines
    x, y = zip(*line.points, strict=True)
    assert (x[:3], x[-2:]) == ((1, 20, 30), (150, 501))  # flat as long as every failure had queries
    assert y[:3] == pytest.approx([0, 100 / 19, 200 / 19], abs=1e-3)
    assert y[-2:] == pytest.approx([1400 / 19] * 2, abs=1e-3)
    assert [text for _, text in chart.x.ticks()] == ["1", "10", "100"]


def test_only_runs_without_gradients_and_with_an_eps_have_a_curve(make: Make, entries: Entries) -> None:
    make(attack="pgd", broken=[1])
    make(attack="square", broken=[1], queries=ASKED, change={"access": "score"})
    make(attack="square", broken=[2], queries=ASKED, seed=1)
    make(attack="rays", broken=[1], queries=ASKED, change={"status": "running"})
    make(attack="mi", broken=[1], queries=ASKED, change={"access": "transfer"})
    make(attack="rays", eps="unbounded", broken=range(20), queries=ASKED)
    bounded, unbounded = entries()
    assert [told.name.split()[0] for told in bounded.queries] == ["square", "square"]
    assert len({told.name for told in bounded.queries}) == 2
    assert unbounded.queries == ()


def test_all_broken_and_none_broken_have_steps_too(make: Make, entries: Entries) -> None:
    make(attack="square", broken=range(20), queries=ASKED)
    make(attack="rays", queries=dict.fromkeys(range(20), 80))
    make(attack="hop_skip_jump", wrong=range(20), queries=ASKED)
    (entry,) = entries()
    ends = {line.name: line.points[-1] for line in query_chart(entry.queries).lines}
    assert ends == {"square": (501, 100.0), "rays": (81, 0.0)}


def test_the_page_shows_the_plot(make: Make, runs: Path, tmp_path: Path) -> None:
    make(attack="square", broken=range(9), queries=ASKED)
    make(attack="pgd", defense="b", broken=range(9))
    assert not build(runs, tmp_path / "site").damaged
    (asked,), (other,) = ([*(tmp_path / "site" / "entries").glob(f"*-{name}-*.html")] for name in ("none", "b"))
    assert 'id="queries"' in asked.read_text()
    assert "plots.js" in asked.read_text()
    assert 'id="queries"' not in other.read_text()

"""Figures for papers: drawn from the evidence, the same bytes for the same evidence, one line where there are none."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gauntlet.commands.plot import KINDS, _bars, main, risk_coverage, tradeoff
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.build import scored
from gauntlet.leaderboard.risk_coverage_plot import risk_coverage_chart
from gauntlet.metrics.bracket import Bracket
from gauntlet.metrics.rejection import Rejection

pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed")

Make = Callable[..., RunFolder]


@pytest.fixture
def runs(make: Make, tmp_path: Path) -> Path:
    make(defense="a_$b", wrong=[0], broken=range(1, 6))
    make(defense="c", broken=range(10))
    make(defense="c", attack="fmn", eps="unbounded", broken=range(20), distance={i: 0.01 * (i + 1) for i in range(20)})
    asked = {i: 10 * (i + 1) for i in range(20)}
    make(defense="c", attack="square", broken=range(9), queries=asked, change={"access": "score"})
    return tmp_path / "runs"


@pytest.mark.parametrize("kind", ["tradeoff", "curve", "queries"])
@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_a_figure_is_written_and_is_the_same_twice(
    runs: Path, tmp_path: Path, kind: str, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / f"one.{ending}", tmp_path / f"two.{ending}"
    for path in (first, second):
        assert main([str(runs), "--kind", kind, "--out", str(path)]) == 0
        assert capsys.readouterr().out == f"plot: {path}\n"
    assert first.read_bytes() == second.read_bytes()
    assert len(first.read_bytes()) > 1000


def test_the_points_are_those_of_the_board(runs: Path) -> None:
    (drawing,) = tradeoff(scored(runs)[0], runs)
    figure, axes = pyplot.subplots()
    drawing.draw(axes)
    points = sorted(zip(*axes.lines[-1].get_data(), strict=True))
    assert points == [(95.0, 70.0), (100.0, 50.0)]
    assert {text.get_text() for text in axes.texts} == {"a_\\$b", "c"}
    pyplot.close(figure)


def test_what_cannot_be_drawn_is_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        ["--kind", "certified"],
        ["--kind", "transfer"],
        ["--kind", "bracket"],
        ["--out", str(tmp_path / "figure.doc")],
        ["--out", str(tmp_path / "none" / "figure.pdf")],
    ]
    for words in cases:
        assert main([str(runs), *words]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert set(KINDS) == {"tradeoff", "curve", "queries", "risk_coverage", "transfer", "certified", "bracket"}


def test_the_bars_of_a_bracket_add_up_to_the_samples() -> None:
    figure, axes = pyplot.subplots()
    _bars(axes, [("trades", Bracket(40, 10, 18, "crown")), ("none", Bracket(40, 0, 40, "crown"))])
    bars = [(patch.get_x(), patch.get_width()) for patch in axes.patches]
    assert bars == [(0, 25), (25, 30), (55, 45), (0, 0), (0, 0), (0, 100)]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["proven", "open", "broken"]
    pyplot.close(figure)


def test_risk_against_coverage_is_drawn_once_a_defense_with_a_dot_at_its_threshold(tmp_path: Path) -> None:
    ids = np.arange(4)
    right = np.array([True, False, True, False])
    found = Rejection(ids, np.array([3.0, 2.0, 2.0, -1.0]), right, ids[:0], np.array([]))
    entry = SimpleNamespace(defense="confidence", rejection=found)
    board: Any = SimpleNamespace(
        data=SimpleNamespace(name="digits"), entries=[entry, SimpleNamespace(defense="none", rejection=None)]
    )
    (drawing,) = risk_coverage([board, board], tmp_path)
    figure, axes = pyplot.subplots()
    drawing.draw(axes)
    curve, dot = axes.lines
    assert curve.get_xydata().tolist() == [[25, 0], [75, pytest.approx(100 / 3)], [100, 50]]
    assert dot.get_xydata().tolist() == [[75, pytest.approx(100 / 3)]]
    pyplot.close(figure)
    chart = risk_coverage_chart(found)
    assert chart is not None
    assert chart.lines[0].points == [(25, 0), (75, pytest.approx(100 / 3)), (100, 50)]
    assert chart.at == 75

"""Robust accuracy over a long range of eps, and what of it no model can have."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from gauntlet.commands.figure import check_ending
from gauntlet.commands.long_range import curves_of, drawings, lines, main
from gauntlet.errors import UserError
from gauntlet.metrics.spurious_accuracy import common_eps, long_range

MISSED = np.inf


def test_the_balls_around_all_images_share_the_center_from_half_a_box_on():
    assert common_eps("linf", None) == 0.5
    assert common_eps("l2", 64) == 4.0
    assert common_eps("l1", 64) == 32.0
    assert common_eps("linf", None, -1.0, 1.0) == 1.0
    assert common_eps("l0", 64) == common_eps("l2", None) == np.inf


def test_what_is_left_and_known_within_an_eps_is_spurious():
    small, large = np.array([0.0, 0.1, MISSED, MISSED]), np.array([0.0, MISSED, 0.6, MISSED])
    curve = long_range([(0.1, small), (0.6, large)], [np.array([MISSED, MISSED, 0.2, MISSED])], 0.5, 0.25)
    assert curve.eps == (0.1, 0.6)
    assert curve.left == (0.5, 0.5)  # the run at 0.6 misses what the one at 0.1 found
    assert curve.within == (0.5, 0.25)
    assert curve.ceiling == (1.0, 0.25)
    assert curve.spurious == (0.0, 0.25)
    assert curve.rises == ()


def test_runs_of_one_eps_are_one_and_a_rise_is_seen():
    first, second = np.array([0.1, MISSED, MISSED]), np.array([MISSED, 0.1, MISSED])
    curve = long_range([(0.1, first), (0.1, second), (0.2, first)], [], np.inf, 1.0)
    assert curve.left == pytest.approx((1 / 3, 2 / 3))
    assert curve.rises == (1,)
    assert curve.spurious == pytest.approx((0.0, 1 / 3))


def run(eps, distance, **manifest):
    """A run of four images of which two are of the largest class."""
    part = pa.table({"stage": ["clean"] * 4, "label": [1, 1, 2, 3]})
    facts = {
        "name": {"defense": "none", "attack": "pgd"}, "dataset": {"name": "digits"},
        "config": {"dataset": {"name": "digits"}},
        "threat": {"norm": "linf", "radius": eps, "low": 0.0, "high": 1.0}, **manifest,
    }  # fmt: skip
    folder = SimpleNamespace(path=Path("pgd"), read_parts=lambda: iter([part]))
    return SimpleNamespace(manifest=facts, distance=np.array(distance), run=folder, ids=np.arange(4))


def test_the_command_says_what_no_model_can_have(tmp_path, capsys):
    group = [run(0.1, [0.1, MISSED, MISSED, MISSED]), run(0.5, [0.5, MISSED, MISSED, MISSED])]
    said = "\n".join(lines(group, curves_of(group)))
    assert "above chance: pgd leaves 75.00% at 0.5" in said
    assert "no model has more than 50.00%" in said
    random = [run(0.5, [0.5, MISSED, MISSED, MISSED], protocol={"rule": "vote"})]
    assert "no sign of spurious accuracy" in "\n".join(lines(random, curves_of(random)))
    assert main([str(tmp_path)]) == 1
    assert "there is no run in" in capsys.readouterr().err


def test_the_figure_has_a_curve_of_each_attack_with_the_shares_of_the_table():
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed")
    group = [run(0.1, [0.1, MISSED, MISSED, MISSED]), run(0.5, [0.5, MISSED, MISSED, MISSED])]
    (drawing,) = drawings([(group, curves_of(group))])
    figure, axes = pyplot.subplots()
    drawing.draw(axes)
    left, known, most = (list(each.get_ydata()) for each in axes.lines)
    pyplot.close(figure)
    assert drawing.name == "digits linf none"
    assert (left, known, most) == ([75.0, 75.0], [75.0, 50.0], [100.0, 50.0])


def test_a_figure_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="has no ending that can be drawn"):
        check_ending(tmp_path / "figure.txt")
    assert main([str(tmp_path / "runs"), "--figure", "figure.txt"]) == 1
    assert capsys.readouterr().err.count("\n") == 1

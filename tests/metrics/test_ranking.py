"""Intervals and tests against published or hand-made numbers."""

import doctest

import numpy as np
import pytest

from gauntlet.metrics import display, ranking
from gauntlet.metrics.confidence import wilson
from gauntlet.metrics.ranking import holm, mcnemar, rank_intervals


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (7371, 10000, 0.7284, 0.7456),
        (5000, 10000, 0.4902, 0.5098),
        (700, 1000, 0.6709, 0.7276),
        (70, 100, 0.6042, 0.7811),
        (3, 1000, 0.0010, 0.0088),
        (0, 1000, 0.0, 0.0038),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_gives_the_known_intervals(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_are_exact_where_all_or_none_survive() -> None:
    assert wilson(0, 360)[0] == 0.0
    assert wilson(360, 360)[1] == 1.0


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [
        (30, 15, 0.0357),
        (60, 40, 0.0569),
        (120, 80, 0.0057),
        (55, 25, 0.0011),
        (5, 0, 0.0625),
        (6, 0, 0.0312),
        (220, 180, 0.0510),
        (300, 240, 0.0111),
        (0, 0, 1.0),
        (7, 7, 1.0),
    ],
)
def test_mcnemar_gives_the_known_values_either_way_round(b: int, c: int, p: float) -> None:
    assert float(mcnemar(np.array(b), np.array(c))) == pytest.approx(p, abs=6e-5)
    assert float(mcnemar(np.array(c), np.array(b))) == pytest.approx(p, abs=6e-5)


def test_holm_is_monotone_and_keeps_the_order_of_its_input() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.5])).tolist() == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm(np.zeros(0)).tolist() == []


def test_ranks_overlap_unless_the_pairs_differ_beyond_noise() -> None:
    robust = np.zeros((3, 100), bool)
    robust[0, :60] = True
    robust[1, :57] = True  # 3 discordant samples: p = 0.25
    robust[2, :30] = True  # 30 and 27 discordant samples: significant
    assert rank_intervals(robust) == [(1, 2), (1, 2), (3, 3)]


def test_a_rank_interval_can_bridge_two_groups() -> None:
    """A beats C, while B is told apart from neither: 9 discordant samples for A and C, 5 and 4 for the others."""
    robust = np.zeros((3, 50), bool)
    for row, survivors in zip(robust, (30, 25, 21), strict=True):
        row[:survivors] = True
    assert rank_intervals(robust) == [(1, 2), (1, 3), (2, 3)]


def test_the_only_entry_is_first_and_no_entry_is_no_trouble() -> None:
    assert rank_intervals(np.ones((1, 4), bool)) == [(1, 1)]
    assert rank_intervals(np.zeros((0, 0), bool)) == []


@pytest.mark.parametrize("module", [ranking, display])
def test_the_examples_in_docstrings_hold(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0

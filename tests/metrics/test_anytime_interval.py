"""The interval that holds at all looks together: closed forms, coverage, and what looking does to Wilson's."""

import math

import numpy as np
import pytest

from gauntlet.metrics.anytime_interval import anytime, evidence
from gauntlet.metrics.confidence import wilson


@pytest.mark.parametrize("samples", [1, 10, 1000])
def test_without_hits_the_ends_have_a_closed_form(samples: int) -> None:
    """The integral of (1 - q)^n is 1 / (n + 1), so that the upper end solves (n + 1) (1 - p)^n = alpha."""
    end = 1 - (0.05 / (samples + 1)) ** (1 / samples)
    assert anytime(0, samples) == (0.0, pytest.approx(end, rel=1e-9))
    assert anytime(samples, samples) == (pytest.approx(1 - end, rel=1e-9), 1.0)


def test_of_one_hit_and_one_miss() -> None:
    """B(2, 2) = 1/6: both ends solve 6 p (1 - p) = alpha."""
    low = (1 - math.sqrt(1 - 4 * 0.05 / 6)) / 2
    assert anytime(1, 2) == (pytest.approx(low), pytest.approx(1 - low))
    assert anytime(0, 0) == (0.0, 1.0)


def test_it_is_wider_than_an_interval_for_one_look() -> None:
    for hits, samples in ((0, 50), (40, 50), (700, 1000), (9000, 10_000)):
        (low, high), (inner, outer) = anytime(hits, samples), wilson(hits, samples)
        assert low <= inner < outer <= high
        assert high - low < 2.2 * (outer - inner)


def missed(mean: float, draws: np.ndarray, looks: np.ndarray) -> tuple[float, float]:
    """Return how often the mean lies outside at any look: of this interval, and of Wilson's."""
    sums = draws.cumsum(1)[:, looks - 1]
    at = looks.tolist()
    ours = np.array([[evidence(total, n, mean) for total, n in zip(row, at, strict=True)] for row in sums.tolist()])
    share, z = sums / looks, 1.959964
    theirs = np.abs(share - mean) > z * np.sqrt(mean * (1 - mean) / looks)
    return float((ours > math.log(20)).any(1).mean()), float(theirs.any(1).mean())


@pytest.mark.parametrize("mean", [0.1, 0.5, 0.9])
def test_it_misses_the_truth_at_any_of_forty_looks_in_one_of_twenty_runs_at_most(mean: float) -> None:
    """Wilson's misses it about five times as often as it says, which is why it cannot end a run."""
    draws = np.random.default_rng(7).random((400, 2000)) < mean
    ours, wilsons = missed(mean, draws.astype(float), np.arange(50, 2001, 50))
    assert ours <= 0.05
    assert wilsons > 0.15


def test_shares_are_covered_as_coins_are() -> None:
    """Of a randomized defense: numbers in [0, 1] with a mean of 0.3 and a spread below that of a coin."""
    draws = np.random.default_rng(8).beta(0.6, 1.4, (300, 1000))
    assert missed(0.3, draws, np.arange(50, 1001, 50))[0] <= 0.05

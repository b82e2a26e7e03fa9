"""The worst class: its interval covers the lowest true accuracy, however it was picked."""

import numpy as np
import pytest

from gauntlet.metrics.confidence import lower, upper
from gauntlet.metrics.worst_class import worst_class


def test_one_class_has_the_plain_interval() -> None:
    found = worst_class({3: (50, 35)})
    assert found is not None
    assert (found.label, found.accuracy) == (3, 0.7)
    assert found.interval == pytest.approx((0.5539, 0.8214), abs=5e-5)


def test_the_lowest_of_several() -> None:
    found = worst_class({0: (10, 9), 1: (0, 0), 2: (100, 50)})
    assert found is not None
    assert (found.label, found.robust, found.samples) == (2, 50, 100)
    side = 0.05 / 4
    assert found.interval == (float(lower(50, 100, side)), float(upper(50, 100, side)))
    assert worst_class({1: (0, 0)}) is None


@pytest.mark.parametrize("truth", [(0.5, 0.5, 0.5, 0.5, 0.5), (0.2, 0.8, 0.9, 0.95, 1.0), (0.02, 0.03, 0.5, 0.5, 0.5)])
@pytest.mark.parametrize("count", [10, 80])
def test_the_interval_covers_the_lowest_accuracy(truth: tuple[float, ...], count: int) -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for robust in rng.binomial(count, truth, (1000, len(truth))):
        found = worst_class({i: (count, int(r)) for i, r in enumerate(robust)})
        assert found is not None
        inside += found.interval[0] <= min(truth) <= found.interval[1]
    assert inside >= 940

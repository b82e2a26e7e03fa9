"""The interval of a randomized defense holds its mean as often as it says, over images and draws, in the worst cell."""

import math

import numpy as np
import pytest
from scipy import stats

from gauntlet.metrics.confidence import bounded_mean, lower, upper

REPEATS = 4000


def members(agree, right):
    """Shares of two members drawn with equal probabilities: one answer for both on a part of the images."""

    def law(rng, n):
        one, other = ((rng.random(n) < right).astype(float) for _ in range(2))
        return np.where(rng.random(n) < agree, one, (one + other) / 2)

    return law, right


def drawn(a, b, draws):
    """Shares of `draws` draws, of images whose probabilities are Beta(a, b)."""
    return (lambda rng, n: rng.binomial(draws, rng.beta(a, b, n)) / draws), a / (a + b)


LAWS = {
    "members that agree": members(1.0, 0.98),
    "members that agree and are nearly always right": members(0.995, 0.998),
    "members that agree and are nearly always wrong": members(0.995, 0.002),
    "members that agree on most": members(0.9, 0.6),
    "members apart": members(0.0, 0.5),
    "ten draws of sure images": drawn(0.02, 0.02, 10),
    "hundred draws of images that are rarely right": drawn(0.01, 0.99, 100),
    "hundred draws": drawn(2, 2, 100),
    "two values": ((lambda rng, n: np.where(rng.random(n) < 0.03, 0.4, 0.0)), 0.012),
    "constant": ((lambda rng, n: np.full(n, 0.37)), 0.37),
}


def coverage(law, mean, n, interval):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(REPEATS):
        low, high = interval(law(rng, n))
        held += low <= mean <= high
    return held / REPEATS


def normal(values):
    """What was used before: mean and 1.96 standard errors."""
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean() - half, values.mean() + half


@pytest.mark.parametrize("n", [10, 60, 300])
@pytest.mark.parametrize("name", list(LAWS))
def test_it_covers_the_mean_as_often_as_it_says(name, n):
    law, mean = LAWS[name]
    assert coverage(law, mean, n, bounded_mean) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / REPEATS)


def test_the_normal_interval_does_not():
    law, mean = LAWS["members that agree"]
    assert coverage(law, mean, 60, normal) < 0.75
    assert normal(np.ones(60)) == (1.0, 1.0)


@pytest.mark.parametrize("n", [1, 2, 5, 20, 200])
def test_of_coins_the_coverage_is_known_exactly(n):
    hits = np.arange(n + 1)
    ends = np.array([bounded_mean(np.arange(n) < k) for k in hits])
    for p in np.linspace(0.001, 0.999, 97):
        held = (ends[:, 0] <= p) & (p <= ends[:, 1])
        assert stats.binom.pmf(hits[held], n, p).sum() >= 0.95


def test_the_sum_is_rounded_outwards():
    low, high = bounded_mean([0.25] * 10)
    assert (low, high) == pytest.approx((float(lower(2, 10, 0.0125)), float(upper(3, 10, 0.0125))))
    tenths = bounded_mean(np.full(10, 0.1, np.float32))
    assert tenths == pytest.approx(bounded_mean([1.0] + [0.0] * 9))
    assert bounded_mean([]) == (0.0, 1.0)
    assert bounded_mean([0.0] * 20)[0] == 0.0
    assert 0 < bounded_mean([0.0] * 20)[1] < 0.2

"""Paired differences: worked values, and the coverage of the interval by simulation."""

import numpy as np
import pytest

from gauntlet.metrics.paired_comparison import class_agreement, compare_pairs, paired_interval, venn


@pytest.mark.parametrize(("b", "c", "p"), [(30, 15, 0.0357), (60, 40, 0.0569), (55, 25, 0.0011), (5, 0, 0.0625)])
def test_exact_tests_of_a_single_pair(b: int, c: int, p: float) -> None:
    robust = np.array([[1] * b + [0] * c + [1] * 10, [0] * b + [1] * c + [1] * 10], bool)
    (pair,) = compare_pairs(robust, 1000)
    assert (pair.first_only, pair.second_only) == (b, c)
    assert pair.difference == pytest.approx((b - c) / 1000)
    assert pair.p == pytest.approx(p, abs=5e-5)


def test_tests_of_several_pairs_are_adjusted() -> None:
    robust = np.array([[1] * 30 + [0] * 15, [0] * 30 + [1] * 15, [0] * 45], bool)
    values = {(pair.first, pair.second): pair.p for pair in compare_pairs(robust, 100)}
    assert values[0, 1] == pytest.approx(0.0357, abs=5e-5)  # the largest of three stays
    assert values[0, 2] == pytest.approx(3 * 2 * 0.5**30)


@pytest.mark.parametrize(("only_first", "only_second"), [(0.0, 0.02), (0.05, 0.05), (0.2, 0.1), (0.01, 0.005)])
@pytest.mark.parametrize("n", [50, 400])
def test_the_interval_covers_the_difference(n: int, only_first: float, only_second: float) -> None:
    rng = np.random.default_rng(1)
    counts = rng.multinomial(n, [only_first, only_second, 1 - only_first - only_second], 4000)
    ends = np.array([paired_interval(int(b), int(c), n) for b, c, _ in counts])
    truth = only_first - only_second
    assert ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean() > 0.935


def test_exclusive_sets_and_classes() -> None:
    sets = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool)
    assert venn(sets) == {(): 1, (0,): 1, (1,): 1, (0, 1): 1}
    assert class_agreement([3, 2, -1], [3, 1, 5]) == (1, 2)

"""What is told of the heads of a defense."""

import numpy as np

from gauntlet.metrics.attack_summary import AttackSummary
from gauntlet.metrics.gradient_masking import beyond, head_lines
from gauntlet.metrics.randomized_result import RandomizedResult, WorstCandidates


def total(**survivors):
    return AttackSummary(
        samples=200, clean=190, survivors={name.replace("__", "/"): n for name, n in survivors.items()}
    )


def test_the_difference_is_the_index_and_the_best_head_is_named():
    counts = total(clean=190, pgd__true=150, pgd__mean=110, pgd__member=90)
    assert beyond(counts) == {"true": 40, "mean": 40, "member": 20}
    (line,) = head_lines(counts)
    assert line == "left by heads     true 75.00%, all 45.00%; gradient-masking index 30.00 points; mean added most, 40"


def test_in_a_suite_it_is_a_bound():
    counts = total(clean=190, a__true=150, a__mean=110, b__true=100, b__mean=99)
    assert beyond(counts) == {"true": 50, "mean": 41}
    (line,) = head_lines(counts)
    assert "true 70.00%, all 49.50%; gradient-masking index at most 20.50 points" in line


def test_nobody_wins_nothing():
    (line,) = head_lines(total(clean=190, pgd__true=150, pgd__mean=150))
    assert line.endswith("index 0.00 points")


def test_one_head_has_no_line():
    assert head_lines(total(clean=190, pgd__true=150)) == []
    assert head_lines(total(clean=190, fixed=150)) == []


def test_of_a_randomized_defense_it_is_the_expectation():
    counts = total(clean=190, pgd__true=190, pgd__mean=190)
    clean, true, all_ = (
        WorstCandidates(
            *(np.arange(3), np.array(wrong), np.zeros(3), np.array(wrong), np.array(heads)),
            *(np.zeros(3, np.int64), np.zeros(3, bool)),
        )
        for wrong, heads in (
            ([0.0, 0.0, 0.1], ["clean"] * 3),
            ([0.1, 0.3, 0.2], ["true"] * 3),
            ([0.5, 0.7, 0.2], ["mean", "mean", "true"]),
        )
    )
    counts.samples, counts.randomized = 3, RandomizedResult(clean, true, all_)
    (line,) = head_lines(counts)
    assert line == "left by heads     true 80.00%, all 53.33%; gradient-masking index 26.67 points; mean added most, 2"

"""Certificates against poisoning, held against every change that an attacker could make on tiny ensembles."""

from itertools import combinations, permutations, product

import numpy as np
import pytest

from gauntlet.certification.poisoning_bounds import Ballot, majority_certificate, needed, runoff_certificate

RULES = {"votes": majority_certificate, "runoff": runoff_certificate}


def ensembles(networks, classes, count, seed, sharp=0.0):
    """Random scores; sharp: how much the networks agree."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(networks, count, classes)) + sharp * rng.normal(size=(1, count, classes))


def one_each(networks):
    return np.arange(networks)[:, None]


def elected(scores, rule):
    """The prediction for one image, scores [networks, classes], written down once more in plain words."""
    votes = [sum(1 for row in scores if list(row).index(max(row)) == c) for c in range(scores.shape[1])]
    order = sorted(range(len(votes)), key=lambda c: (-votes[c], c))
    if rule == "votes":
        return order[0]
    low, high = sorted(order[:2])
    for_low = sum(1 for row in scores if row[low] >= row[high])
    return low if 2 * for_low >= len(scores) else high


def true_robustness(scores, reached, rule, most):
    """The changes that an image survives, by trying all: any buckets, any rankings of the networks that they reach."""
    classes = scores.shape[1]
    own = elected(scores, rule)
    rankings = [np.array(order, float) for order in permutations(range(classes))]
    for changes in range(1, most + 1):
        for buckets in combinations(range(len(reached)), changes):
            fallen = sorted({int(network) for bucket in buckets for network in reached[bucket]})
            for said in product(rankings, repeat=len(fallen)):
                changed = scores.copy()
                changed[fallen] = said
                if elected(changed, rule) != own:
                    return changes - 1
    return most


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize(("networks", "classes", "count"), [(5, 3, 25), (6, 2, 15), (3, 4, 12)])
def test_no_change_that_an_attacker_has_breaks_a_certificate_of_partitions(rule, networks, classes, count):
    scores, reached = ensembles(networks, classes, count, seed=networks, sharp=1.0), one_each(networks)
    own, certified = RULES[rule](Ballot(scores, reached))
    exact = []
    for image in range(count):
        assert own[image] == elected(scores[:, image], rule)
        exact.append(true_robustness(scores[:, image], reached, rule, int(certified[image]) + 1))
    assert (certified >= 0).all()
    assert (certified <= exact).all()
    assert certified.max() >= (networks - 1) // 2  # not for want of certificates
    assert (certified == exact).mean() >= 0.95  # tight all but always
    if rule == "votes":
        assert (certified == exact).all()


@pytest.mark.parametrize("level", [0.2, 0.5, 0.8])
def test_nor_one_of_a_run_off_in_which_a_class_is_the_second_choice_of_many(level):
    """It wins against any other, and may yet not be in the run-off; or it is beaten there, and is hard to bring in."""
    scores = ensembles(6, 3, 40, seed=int(10 * level))
    scores[:, :, 1] = level
    _, certified = runoff_certificate(Ballot(scores, one_each(6)))
    exact = [true_robustness(scores[:, image], one_each(6), "runoff", int(certified[image]) + 1) for image in range(40)]
    assert (certified <= exact).all()
    assert (certified == exact).mean() >= 0.9


def test_a_winner_is_lost_where_two_classes_keep_it_out_of_the_run_off():
    """Two votes for each of three classes, and the winner is the second choice of all others: one change is enough."""
    said = [[2, 1, 0], [2, 0, 1], [1, 2, 0], [1, 2, 0], [1, 0, 2], [1, 0, 2]]
    own, certified = runoff_certificate(Ballot(np.array(said, float)[:, None], one_each(6)))
    assert (own.tolist(), certified.tolist()) == ([0], [0])


@pytest.mark.parametrize("rule", list(RULES))
def test_nor_one_where_a_bucket_trains_several_networks(rule):
    reached = np.array([[0, 2], [1, 3], [2, 4], [3, 5], [4, 0], [5, 1]])
    scores = ensembles(6, 3, 12, seed=1, sharp=2.0)
    _, certified = RULES[rule](Ballot(scores, reached))
    for image in range(12):
        limit = min(int(certified[image]) + 1, 2)
        assert min(certified[image], 2) <= true_robustness(scores[:, image], reached, rule, limit)
    assert certified.max() >= 1


def test_the_majority_of_partitions_has_the_closed_form_of_dpa():
    """floor((N_a - max_c (N_c + [c < a])) / 2)."""
    ballot = Ballot(ensembles(50, 10, 200, seed=0, sharp=1.5), one_each(50))
    own, certified = majority_certificate(ballot)
    rest = ballot.votes + (np.arange(10) < own[:, None])
    rest[np.arange(200), own] = -1
    assert np.array_equal(certified, (ballot.votes.max(1) - rest.max(1)) // 2)
    assert len(np.unique(certified)) > 5


def test_two_classes_overtake_a_third_in_the_closed_form_of_the_run_off():
    """max(ceil(g1 / 2), ceil(g2 / 2), ceil((g1 + g2) / 3)) with gaps g >= 0 (spec: equal to the table of the paper)."""
    ballot = Ballot(ensembles(40, 6, 100, seed=3, sharp=1.5), one_each(40))
    leader = ballot.majority()
    one, two = (leader + 1) % 6, (leader + 3) % 6
    gaps = [np.maximum(ballot._gap(each, leader), 0) for each in (one, two)]
    half, third = [-(-gap // 2) for gap in gaps], -(-(gaps[0] + gaps[1]) // 3)
    assert np.array_equal(ballot.both_overtaken(one, two, leader), np.maximum(np.maximum(*half), third))


def test_it_does_not_matter_which_network_is_which_nor_how_scores_are_scaled():
    scores, order = ensembles(12, 4, 50, seed=5, sharp=1.0), np.random.default_rng(0).permutation(12)
    reached = np.stack([np.arange(12), (np.arange(12) + 5) % 12], 1)
    place = np.argsort(order)
    for rule in RULES.values():
        expected = rule(Ballot(scores, reached))
        for changed in (Ballot(scores[order], place[reached]), Ballot(1e-3 * scores + 7.0, reached)):
            assert all(np.array_equal(*pair) for pair in zip(expected, rule(changed), strict=True))


def test_equal_votes_and_equal_scores_go_to_the_smaller_class():
    tie = np.zeros((2, 1, 3))
    tie[0, 0, 2] = tie[1, 0, 1] = 1.0
    assert majority_certificate(Ballot(tie, one_each(2)))[0].tolist() == [1]
    own, certified = runoff_certificate(Ballot(np.zeros((3, 1, 3)), one_each(3)))
    assert (own.tolist(), certified.tolist()) == ([0], [1])  # all say 0; two networks can turn to 1 or 2


def test_a_gap_that_all_buckets_cannot_close_needs_more_than_there_are():
    power = np.array([[3, 1, 0], [3, 1, 0], [3, 1, 0], [3, 1, 0]])
    assert needed(np.array([0, 3, 4, 5]), power).tolist() == [0, 1, 2, 4]

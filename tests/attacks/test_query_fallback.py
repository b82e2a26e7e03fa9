"""Whom the queries go to, where they start, and when they end."""

import pytest
import torch

from gauntlet.attacks.gauntlet_state import GauntletState
from gauntlet.attacks.query_fallback import QueryFallback
from gauntlet.threat_model.rng import Rng
from tests.attacks.test_gauntlet import EPS, THREAT, Line, door, grey

NOBODY = torch.zeros(3, dtype=torch.bool)


def state_of(levels, share):
    """Samples whose gradients went that share of the way to the end of the ball, so far."""
    ids, x, y = grey(levels)
    state = GauntletState(door(Line(), ids), x, y, THREAT, Rng(0, ids, "g"))
    z = x - share * EPS
    state.best.note(torch.arange(len(x)), z, 16 * z[:, 0, 0, 0] - 8, torch.zeros(len(x), dtype=torch.bool))
    return state


def spent(state, fallback, doubted):
    before = state.head.counts.forwards.clone()
    fallback(state, doubted)
    return (state.head.counts.forwards - before).tolist()


def phases(state):
    return [state.head.counts.phases[place] for place in state.head.counts.phase]


def test_searches_start_at_the_best_point():
    state = state_of([0.61, 0.7, 0.8], 1.0)  # where nothing is left to find
    margin = state.best.margin.clone()
    assert spent(state, QueryFallback(20, 500, 5000), NOBODY) == [21, 21, 21]  # the end is looked at once more
    assert torch.allclose(state.best.margin, margin, atol=1e-5)
    assert phases(state) == ["probe"] * 3


def test_more_queries_go_where_the_probe_took_a_tenth_of_what_was_left():
    state = state_of([0.63, 0.63, 0.63], 0.0)
    assert spent(state, QueryFallback(20, 120, 5000), NOBODY) == [121, 121, 121]
    assert phases(state) == ["trial"] * 3
    state = state_of([0.63, 0.63, 0.63], 0.0)
    assert spent(state, QueryFallback(20, 0, 5000), NOBODY) == [21, 21, 21]


def test_a_doubted_sample_is_asked_on_after_the_trial_and_leaves_at_a_stop():
    doubted = torch.tensor([False, True, True])
    state = state_of([0.63, 0.63, 0.95], 1.0)  # 0.48 of 2.08 is left, and 5.6 of 7.2
    found = spent(state, QueryFallback(20, 200, 1000), doubted)
    # Of the second queries took nothing: it leaves after 400 and, though close, is not searched again.
    assert found == [21, 401, 51]
    assert phases(state) == ["probe", "square", "trial"]


@pytest.mark.parametrize(("again", "searches"), [(0.2, 1), (0.3, 2)])
def test_a_search_that_came_close_is_followed_by_another(monkeypatch, again, searches):
    monkeypatch.setattr(QueryFallback, "AGAIN", again)
    state = state_of([0.63], 0.9)  # 0.31 of the margin is left, and 0.23 after a search
    assert spent(state, QueryFallback(20, 100, 300), torch.tensor([True])) == [301 * searches]


def test_without_a_probe_only_doubted_samples_are_asked():
    state = state_of([0.63, 0.63, 0.63], 1.0)
    found = spent(state, QueryFallback(0, 100, 100), torch.tensor([False, True, False]))
    assert found == [0, 101, 0]
    assert spent(state_of([0.63] * 3, 1.0), QueryFallback(0, 0, 100), ~NOBODY) == [0, 0, 0]


def test_a_candidate_that_queries_find_is_kept():
    state = state_of([0.56], 0.5)  # half of the way is not enough by 0.16
    spent(state, QueryFallback(20, 500, 5000), torch.tensor([True]))
    assert state.best.broken.tolist() == [True]
    assert 16 * state.best.z.mean() - 8 <= 0
    assert (state.best.z - state.x).abs().max() <= EPS + 1e-6

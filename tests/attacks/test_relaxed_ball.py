"""Which samples and classes get runs through the relaxed ball, and what they cost."""

import pytest
import torch
from torch import Tensor, nn

from gauntlet.attacks.gauntlet import Gauntlet
from gauntlet.attacks.losses import margins
from gauntlet.attacks.projected_ascent import BestCandidates
from gauntlet.attacks.relaxed_ball import RelaxedSearch
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from tests.attacks.test_gauntlet import EPS, THREAT, Line, door, grey


class Three(nn.Module):
    """The sum of 16 pixels against a constant and against half of itself, whose boundary is farther where it leads."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1, keepdim=True)
        return torch.cat([total, total.new_full(total.shape, 8.0), 0.9 * total + 0.8], 1)


def cost(network, levels, **knobs):
    ids, x, y = grey(levels)
    head = door(network, ids)
    attack = Gauntlet(trial=0, rounds=0, **knobs)
    z = attack(head, x, y, threat=THREAT, rng=Rng(0, ids, "g"))
    return z, head.counts.forwards.tolist(), head.counts.backwards.tolist()


def test_what_a_near_and_a_far_sample_cost_on_a_linear_model():
    """A near sample keeps 0.192 of 1.792: less than an eighth, where the first cycle goes on, and more than 0.03."""
    z, forwards, backwards = cost(Line(), [0.612, 0.85])
    assert torch.allclose(z[0], torch.full_like(z[0], 0.612 - EPS), atol=1e-6)
    far = 1 + 21 + 2 + 21  # clean, screen, linearity, probe
    cycle = 19 + 10 + 1  # relaxed steps and the projections of all but the first; steps inside; the middle
    assert forwards == [far + 1 + cycle + 10 + cycle, far]
    assert backwards == [21 + 1 + 30 + 20, 21]


def test_a_run_ends_early_where_the_relaxed_steps_leave_much():
    """A sample of gap 0.5 keeps a third of its margin, more than a quarter."""
    _, forwards, backwards = cost(Line(), [0.65])
    assert (forwards, backwards) == ([45 + 1 + 19], [21 + 1 + 10])


def test_only_classes_within_the_distance_get_a_run(monkeypatch):
    """Where the sample stands after the screen, at 0.55, the constant is 0.05 away, and the other class 0.05 as well.

    The boundary of the third class, 0.1 total = 0.8, is at 0.5 as that of the constant; from 0.55 both are half of eps
    away, and nothing but the distance tells whether the second gets a run.
    """
    found = []
    for distance, rivals in ((0.4, 4), (0.6, 4), (0.6, 1)):
        monkeypatch.setattr(Gauntlet, "DISTANCE", distance)
        monkeypatch.setattr(Gauntlet, "RIVALS", rivals)
        found.append(cost(Three(), [0.65])[2])
    assert found[0] == [21 + 2 + 10]  # the nearest gets one whatever its distance
    assert found[1:] == [[21 + 2 + 20], [21 + 1 + 10]]


def test_gap_says_how_far_runs_go():
    """A sample of gap 0.5 gets a run up to 1.4 times `gap`."""
    assert [cost(Line(), [0.65], gap=gap)[2] for gap in (0.35, 0.36)] == [[21], [21 + 1 + 10]]


def test_a_sample_that_linear_steps_break_is_broken():
    z, _, _ = cost(Line(), [0.599, 0.601])
    assert (Line()(z).argmax(1) != 0).tolist() == [True, False]


@pytest.mark.parametrize(("pairs", "runs"), [([True, True], 2), ([False, True], 1), ([False, False], 0)])
def test_pairs_of_sample_and_class_that_are_left_out_get_no_run(case, pairs, runs):
    threat, count = Threat("linf", 1e-6), len(case.ids)
    head = CountedHead(case.victim.heads[0], case.victim.predict, Counts.of(case.ids))
    order = torch.stack([(case.y + 1) % 5, (case.y + 2) % 5], 1)
    mine, rng = torch.tensor(pairs).expand(count, 2), Rng(0, case.ids, "run")
    clean = margins(head.scores(case.x, rng), case.y)
    RelaxedSearch(early=0.25).search(
        head, BestCandidates.start(case.x), mine, case.x, case.y, order, clean, threat=threat, rng=rng,
    )  # fmt: skip
    assert head.counts.backwards.tolist() == [10 * runs] * count

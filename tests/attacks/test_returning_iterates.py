"""Runs that end where their iterates return end as all their steps would."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gauntlet.attacks.losses import named
from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.projected_ascent import BestCandidates, Step, ascend
from gauntlet.attacks.returning_iterates import WINDOW, ReturningIterates, earliest_return
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from tests.attacks.conftest import Case, Crooked


class Apart(Crooked):
    """The network of the other tests, whose float32 sums round in the same way in a smaller batch."""

    def forward(self, x):
        hidden = ((x - 0.5).flatten(1)[:, :, None] * self.first).sum(1).relu()
        return (hidden[:, :, None] * self.second).sum(1)


def run(case, loss, steps, length, eps, returning):
    """Best candidates, survivors, their end points and the passes of one run."""
    counts = Counts.of(case.ids)
    head = CountedHead(case.victim.heads[0], case.victim.predict, counts)
    threat, rng, best = Threat("linf", eps), Rng(0, case.ids, "attack"), BestCandidates.start(case.x)
    start = threat.random(case.x, rng.stream("start"))
    index, z = ascend(
        head, case.x, case.y, start, [Step(named(loss), length)] * steps, best, torch.arange(len(case.ids)),
        threat=threat, rng=rng, returning=returning,
    )  # fmt: skip
    return best, index, z, counts


@settings(max_examples=25, deadline=None)
@given(
    loss=st.sampled_from(["ce", "margin", "dlr"]), steps=st.integers(50, 90),
    length=st.sampled_from([0.05, 0.1, 0.25, 0.3, 1.0, 2.0]), eps=st.sampled_from([0.01, 0.03, 0.06, 0.1]),
)  # fmt: skip
def test_what_is_found_is_what_all_steps_find(loss, steps, length, eps):
    case = Case(Apart())
    full, short = (run(case, loss, steps, length, eps, returning) for returning in (False, True))
    for mine, other in zip((*full[0], *full[1:3]), (*short[0], *short[1:3]), strict=True):
        assert torch.equal(mine, other)
    assert (short[3].backwards <= full[3].backwards).all()
    assert (short[3].backwards[full[1]] >= earliest_return(steps)).all()
    assert (short[3].forwards - short[3].backwards == full[3].forwards - full[3].backwards).all()


def test_a_long_run_makes_a_fraction_of_its_passes(case):
    _, counts = case.attack(PGD(steps=1000), Threat("linf", 0.01))
    assert counts.backwards.max() < 200


@pytest.mark.parametrize("period", range(1, 14))
def test_which_cycles_are_found(period):
    """One point that goes round: what is called the last iterate is the last one."""
    for steps in range(60, 60 + WINDOW):
        points = [torch.full((1, 1, 1, 1), float((k - 5) % period if k > 5 else k - 5)) for k in range(steps + 1)]
        cycles = ReturningIterates(steps)
        said = [k for k in range(steps) if cycles.last(k, points[k])]
        assert all(torch.equal(points[k], points[steps]) for k in said)
        assert bool(said) == (WINDOW % period == 0)


@pytest.mark.parametrize("change", [{"schedule": "cosine"}, {"steps": PGD.LONG - 1}])
def test_runs_that_go_all_the_way(case, change):
    attack = replace(PGD(steps=96), **change)
    _, counts = case.attack(attack, Threat("linf", 1e-6))
    assert (counts.backwards == attack.steps).all()


def test_a_head_that_draws_is_not_deterministic(case):
    head = CountedHead(case.victim.heads[0], case.victim.predict, Counts.of(case.ids))
    assert head.deterministic
    assert not replace(head, trials=10).deterministic
    assert not replace(head, head=replace(head.head, draws=4)).deterministic

"""The CR attack where the answer is known."""

import numpy as np
import pytest
import torch

from gauntlet.attacks.cr import CR
from gauntlet.attacks.projected_ascent import BestCandidates, RunCandidates
from gauntlet.attacks.relaxed_ball import RelaxedRun, RelaxedSearch
from gauntlet.errors import UserError
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from tests.attacks.test_oracle import attacked, drop


def test_the_scale_is_halved_down_to_a_floor():
    assert RelaxedSearch(cycles=6).scales() == [0.5, 0.25, 0.125, 0.0625, 0.05, 0.05]
    assert RelaxedSearch(cycles=2).scales() == [0.5, 0.25]


def test_the_best_point_of_a_linear_network_is_the_corner_of_the_ball():
    eps, offset = 0.1, 100.0
    expected = offset - eps * drop("linf")
    assert attacked(CR(prune=10.0), "linf", eps, offset) == pytest.approx([expected] * 3, rel=1e-6)


def test_the_boundary_is_where_theory_puts_it():
    offset = 0.1 * drop("linf")
    assert all(margin < 0 for margin in attacked(CR(), "linf", 0.1001, offset))
    assert all(margin > 0 for margin in attacked(CR(), "linf", 0.0999, offset))


def test_a_sample_far_away_leaves_each_run_at_the_first_chance(case):
    """Clean, screen and order, then for each target ten steps of two forwards but the first, ten of one, and one."""
    _, counts = case.attack(CR(targets=2), Threat("linf", 1e-6))
    assert counts.forwards.tolist() == [1 + 11 + 1 + 2 * (19 + 10 + 1)] * len(case.ids)
    assert counts.backwards.tolist() == [10 + 2 * 20] * len(case.ids)


def test_the_longest_plan(case):
    """A sample that is never dropped and tried again in every round makes all steps of all cycles."""
    attack = CR(steps=2, cycles=3, targets=2, restarts=1, prune=1e9, near=1e9)
    _, counts = case.attack(attack, Threat("linf", 1e-6))
    assert counts.backwards.tolist() == [2 + 4 * 3 * 6] * len(case.ids)
    assert counts.forwards.tolist() == [1 + 3 + 1 + 4 * (3 * (3 + 2 + 1 + 2) + 1)] * len(case.ids)


def run_of(case, threat, z):
    head = CountedHead(case.victim.heads[0], case.victim.predict, Counts.of(case.ids))
    everyone, rng = torch.arange(len(case.ids)), Rng(0, case.ids, "run")
    candidates, clean = RunCandidates.start(BestCandidates.start(case.x), everyone), np.ones(len(case.ids), np.float32)
    return RelaxedRun(
        head, candidates, case.x, case.y, (case.y + 1) % 5, clean, clean.copy(), threat, rng, z,
    )  # fmt: skip


def test_relaxed_steps_end_inside_and_shaking_stays_near(case):
    threat = Threat("linf", 0.02)
    run = run_of(case, threat, case.x)
    run.walk(3, 0.5, 1.5, "relaxed")
    assert threat.contains(run.z, run.x).all()
    assert threat.contains(run.candidates.best.z, case.x).all()
    run.shake(0.25, "shake")
    moved = (run.z - run.x).abs()
    assert (moved <= 0.02 + 1e-7).all()
    assert moved.max() > 0.015


def test_neither_scale_nor_shift_of_the_logits_changes_an_answer(make_case):
    """The thresholds are shares of the clean margin; with logits a power of two larger the steps are the same bits."""
    threat = Threat("linf", 0.05)
    found = [make_case(dtype=torch.float64, scale=scale).attack(CR(), threat) for scale in (256.0, 4096.0)]
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1].forwards, found[1][1].forwards)


@pytest.mark.parametrize("knobs", [{"targets": 0}, {"cycles": 0}, {"steps": 0}, {"prune": 0.0}, {"near": -1.0}])
def test_bad_knobs(knobs):
    with pytest.raises(UserError):
        CR(**knobs)

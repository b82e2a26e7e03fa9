import math

import pytest
import torch
from scipy.optimize import LinearConstraint, minimize

from gauntlet.attacks.fab import FAB, reach
from gauntlet.attacks.losses import margin_hidden_by_rounding, margins
from gauntlet.errors import UserError
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.targeted import target_margins, targeting
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head

DUAL = {"linf": 1, "l2": 2, "l1": math.inf}
D = 6


def problem(seed):
    rng = Rng(seed, torch.arange(1), "p")
    x = rng.uniform((1, 1, D), dtype=torch.float64)
    return x, rng.stream("w").normal((1, 1, D), dtype=torch.float64)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_reach_is_the_least_move_in_the_box(norm, seed, share):
    x, w = problem(seed)
    start, slope = x.flatten().numpy(), w.flatten().numpy()
    most = float((w.clamp_min(0) * (1 - x) - w.clamp_max(0) * x).sum())
    for amount in (share * most, -share * float((-w).clamp_min(0).mul(1 - x).sum() - (-w).clamp_max(0).mul(x).sum())):
        d = reach(x, w, torch.tensor([amount], dtype=torch.float64), Threat(norm, 1.0))[0].flatten()
        assert float(d @ w.flatten()) == pytest.approx(amount, abs=1e-9)
        assert ((x.flatten() + d) >= -1e-12).all()
        assert ((x.flatten() + d) <= 1 + 1e-12).all()
        ours = float(d.norm(p=math.inf if norm == "linf" else int(norm[1])))
        # p - m = d with p, m >= 0, and a bound t on all entries for linf: each norm becomes a smooth objective
        names = 2 * D + 1
        rows = [[*slope, *-slope, 0.0]]
        bounds = [(0, 1 - s) for s in start] + [(0, s) for s in start] + [(0, None)]
        constraints = [LinearConstraint(rows, amount, amount)]
        if norm == "linf":
            box = [[float(j == i or j == i + D) for j in range(2 * D)] + [-1.0] for i in range(D)]
            constraints.append(LinearConstraint(box, -math.inf, 0))
        goal = {
            "linf": lambda v: v[-1],
            "l2": lambda v: ((v[:D] - v[D : 2 * D]) ** 2).sum(),
            "l1": lambda v: v[: 2 * D].sum(),
        }[norm]
        found = minimize(goal, [0.1] * names, bounds=bounds, constraints=constraints, method="SLSQP", tol=1e-12)
        best = math.sqrt(found.fun) if norm == "l2" else found.fun
        assert found.success
        assert ours == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_reach_goes_as_far_as_the_box_allows(norm):
    x, w = problem(0)
    d, _ = reach(x, w, torch.tensor([1e6]), Threat(norm, 1.0))
    assert torch.equal(x + d, torch.where(w > 0, 1.0, 0.0).double())
    assert torch.equal(reach(x, 0 * w, torch.tensor([1.0]), Threat(norm, 1.0))[0], 0 * x)


@pytest.mark.parametrize(
    "knobs",
    [{"steps": 0}, {"targets": -1}, {"restarts": 0}, {"overshoot": 0.0}, {"pull": 1.0}, {"bias": 2.0}],
)
def test_bad_knobs(knobs):
    with pytest.raises(UserError):
        FAB(**knobs)


@pytest.mark.parametrize("targets", [0, 2])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_an_offset_of_the_logits_makes_no_ties(norm, targets, make_case):
    """At 1e6 the last digit is 0.06: a candidate is wrong by it wherever one within eps can be."""
    case, threat = make_case(scale=10.0, offset=1e6), Threat(norm, {"linf": 0.15, "l2": 0.6, "l1": 2.0}[norm])
    plain = make_case(scale=10.0)
    wrong = margins(case.network(case.attack(FAB(steps=20, targets=targets), threat)[0]), case.y) < 0
    found = plain.broken(plain.attack(FAB(steps=20, targets=targets), threat)[0])
    assert wrong.sum() >= found.sum() - 1


def test_logits_without_an_offset_hide_nothing():
    logits = torch.tensor([[3.0, -2.0, 1.0], [40.0, 41.0, 42.0], [1e6, 1e6 + 1, 1e6 - 1]])
    assert margin_hidden_by_rounding(logits)[:2].tolist() == [0, 0]
    assert 0.0625 < float(margin_hidden_by_rounding(logits)[2]) < 0.125


def test_the_cost_of_a_survivor(case):
    _, counts = case.attack(FAB(steps=100, targets=9), Threat("linf", 1e-6))
    assert counts.forwards.tolist() == [4 * 200 + 1] * len(case.ids)  # there are four other classes
    assert counts.backwards.tolist() == [400] * len(case.ids)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_targeted_walk_on_a_linear_model_ends_at_the_boundary_of_the_target(norm):
    """Far from the walls of the box, the distance to {z_t >= z_j for all j} of two other classes has a closed form."""
    ids = torch.arange(30)
    weight = Rng(0, torch.arange(1), "w").normal((3, D), dtype=torch.float64)[0]
    x = 0.5 + 0.01 * Rng(1, ids, "x").normal((1, 1, D), dtype=torch.float64)

    def forward(z, rng):
        return (z.flatten(1) - 0.5) @ weight.T

    y = forward(x, None).argmax(1)
    target = (y + 1) % 3
    head = CountedHead(Head("true", forward, exact=True), forward, Counts.of(ids))
    aimed, threat = targeting(head, y, target), Threat(norm, "unbounded")
    z = FAB(targets=0, steps=30)(aimed, x, y, threat=threat, rng=Rng(0, ids, "fab"))
    scores, rows = forward(x, None), torch.arange(30)
    apart = [
        (scores[rows, other] - scores[rows, target])
        / torch.linalg.vector_norm(weight[target] - weight[other], DUAL[norm], dim=1)
        for other in (y, (y + 2) % 3)
    ]
    least = apart[0].maximum(apart[1])  # of two half spaces, met by one plane alone wherever its foot lies in the other
    found = threat.distance(z, x)
    there = target_margins(forward(z, None), target) < 1e-12
    assert there.sum() >= 28  # where the two planes meet at a sharp angle the walk goes to and fro
    assert (found >= least * (1 - 1e-9))[there].all()
    assert (found <= least * 1.01).float().mean() > 0.5
    assert torch.equal(aimed.counts.backwards, torch.full((30,), 30))

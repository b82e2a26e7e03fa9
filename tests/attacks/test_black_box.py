"""RayS and HopSkipJump: distances in closed form, and questions that are counted."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from gauntlet.attacks.black_box.boundary_margin import BOUNDARY_MARGIN
from gauntlet.attacks.black_box.hop_skip_jump import HopSkipJump, HopSkipJumpSchedule
from gauntlet.attacks.black_box.rays import RayS
from gauntlet.errors import UserError
from gauntlet.threat_model.access import narrowed
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

IDS = torch.arange(3)


class Linear(nn.Module):
    """Two classes; mid-grey lies at margin one. Counts the images that it is asked about."""

    def __init__(self):
        super().__init__()
        self.w = Rng(1, torch.arange(1), "w").normal((12,), dtype=torch.float64)[0]
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        margin = (x - 0.5).flatten(1).double() @ self.w + 1
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def attacked(attack, threat, network=None):
    """Distances of the candidates, whether they fool the network, and the questions asked."""
    network = network or Linear()
    victim = Victim(plain(network), (network,))
    x, y = torch.full((3, 3, 2, 2), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    counts = Counts.of(IDS)
    door = narrowed(CountedHead(victim.heads[0], victim.predict, counts), attack.needs)
    z = attack(door, x, y, threat=threat, rng=Rng(0, IDS, "a"))
    broken = network(z).argmax(1) != y
    return threat.distance(z, x), broken, counts.forwards


def nearest(norm):
    """Distance of the boundary, away from the box."""
    return 1 / Linear().w.norm(p={"linf": 1, "l2": 2}[norm]).item()


def test_rays_finds_the_nearest_vector_of_signs():
    distance, broken, forwards = attacked(RayS(queries=300, tolerance=1e-6), Threat("linf", "unbounded"))
    assert broken.all()
    assert distance.numpy() == pytest.approx(nearest("linf") * (1 + BOUNDARY_MARGIN), rel=1e-5)
    assert forwards.tolist() == [300] * 3


def test_rays_bisects_to_its_tolerance():
    distance, _, _ = attacked(RayS(queries=300, tolerance=0.01), Threat("linf", "unbounded"))
    distance /= 1 + BOUNDARY_MARGIN
    assert ((distance >= nearest("linf")) & (distance <= nearest("linf") + 0.01 / 12**0.5)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hop_skip_jump_comes_near_the_nearest_point(norm):
    distance, broken, forwards = attacked(HopSkipJump(queries=1000), Threat(norm, "unbounded"))
    assert broken.all()
    assert (distance >= nearest(norm)).all()
    assert (distance <= 1.05 * nearest(norm)).all()
    assert forwards.tolist() == [1000] * 3


ATTACKS = [(RayS(), "linf"), (HopSkipJump(), "linf"), (HopSkipJump(), "l2")]


@pytest.mark.parametrize(("attack", "norm"), ATTACKS)
def test_the_boundary_is_where_theory_puts_it(attack, norm):
    few = replace(attack, queries=1000)
    _, broken, forwards = attacked(few, Threat(norm, nearest(norm) * 1.05))
    assert broken.all()
    assert (forwards < 1000).all()
    _, broken, forwards = attacked(few, Threat(norm, nearest(norm) * 0.99))
    assert not broken.any()
    assert forwards.tolist() == [1000] * 3


@pytest.mark.parametrize(("attack", "norm"), ATTACKS)
@pytest.mark.parametrize("eps", ["unbounded", 0.2])
def test_every_question_is_counted_and_none_beyond_the_budget(attack, norm, eps):
    network = Linear()
    _, _, forwards = attacked(replace(attack, queries=77), Threat(norm, eps), network)
    assert forwards.sum() == network.seen - 3  # the test itself looks once at the candidates
    assert (forwards <= 77).all()


@pytest.mark.parametrize(("attack", "norm"), ATTACKS)
def test_more_questions_only_add(attack, norm, case):
    threat = Threat(norm, 0.1 if norm == "linf" else 0.3)
    found = [case.broken(case.attack(replace(attack, queries=n), threat)[0]) for n in (30, 120, 500)]
    assert all((more | ~less).all() for less, more in pairwise(found))
    assert found[-1].sum() > found[0].sum()


@pytest.mark.parametrize(("attack", "norm"), ATTACKS)
def test_more_questions_never_lead_away(attack, norm, case):
    threat = Threat(norm, "unbounded")
    few, many = (case.attack(replace(attack, queries=n), threat)[0] for n in (60, 300))
    assert case.broken(few).all()
    assert case.broken(many).all()
    assert (threat.distance(many, case.x) <= threat.distance(few, case.x) * (1 + BOUNDARY_MARGIN)).all()
    assert threat.distance(many, case.x).mean() < 0.9 * threat.distance(few, case.x).mean()


@pytest.mark.parametrize(("attack", "norm"), ATTACKS)
def test_what_was_not_found_is_the_image_itself(attack, norm, case):
    z, _ = case.attack(replace(attack, queries=20), Threat(norm, 1e-6))
    assert torch.equal(z, case.x)
    z, counts = case.attack(replace(attack, queries=1), Threat(norm, "unbounded"))
    assert counts.forwards.tolist() == [1] * len(case.ids)


def test_rays_asks_about_all_signs_then_blocks_then_pixels():
    """With a victim that is never fooled but once, the questions are the blocks themselves."""
    asked = []

    def decide(x, rng):
        asked.append((x[0] - 0.5).flatten().sign())
        return torch.eye(2, dtype=x.dtype)[[0]].expand(len(x), 2)

    victim = Victim(decide, ())
    x, ids = torch.full((1, 1, 2, 3), 0.5), torch.arange(1)
    door = narrowed(CountedHead(victim.heads[0], victim.predict, Counts.of(ids)), "decision")
    RayS(queries=16)(door, x, torch.zeros(1, dtype=torch.long), threat=Threat("linf", 0.1), rng=Rng(0, ids))
    turned = [(signs < 0).nonzero().flatten().tolist() for signs in asked]
    halves, thirds, pixels = [[0, 1, 2], [3, 4, 5]], [[0, 1], [2, 3], [4, 5]], [[i] for i in range(6)]
    assert turned == [[0, 1, 2, 3, 4, 5], *halves, *thirds, *pixels, *pixels[:4]]


def test_the_pace_is_that_of_the_paper():
    l2, linf = (HopSkipJumpSchedule.of(Threat(norm, 0.1), 100, 100, 250, 1.0) for norm in ("l2", "linf"))
    assert (l2.narrow, linf.narrow) == (pytest.approx(1e-3), pytest.approx(1e-4))
    assert (l2.move, linf.move) == (pytest.approx(1e-2), pytest.approx(1e-2))
    assert l2.wanted(torch.tensor([1, 2, 4, 9])).tolist() == [100, 141, 200, 250]


@pytest.mark.parametrize(
    ("attack", "knobs"),
    [
        (RayS, {"queries": 0}), (RayS, {"tolerance": 0.0}), (RayS, {"tolerance": float("nan")}),
        (HopSkipJump, {"queries": 0}), (HopSkipJump, {"draws": 0}), (HopSkipJump, {"most": 0}),
        (HopSkipJump, {"gamma": 0.0}),
    ],
)  # fmt: skip
def test_bad_knobs(attack, knobs):
    with pytest.raises(UserError, match=f"attack.{next(iter(knobs))}="):
        attack(**knobs)

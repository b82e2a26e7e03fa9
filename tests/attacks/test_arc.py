"""Attacks on randomized ensembles: linear members whose worst case a sweep knows, and what the mean loss hides."""

import math

import pytest
import torch

from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.randomized_ensemble.arc import ARC
from gauntlet.attacks.randomized_ensemble.expected_pgd import ExpectedPGD
from gauntlet.attacks.randomized_ensemble.lattice_climber import LatticeClimber
from gauntlet.defenses.randomized_ensemble import expected_softmax
from gauntlet.errors import UserError
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.mixture import mixed
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, Victim

COUNT = 300


class Linear:
    """Random linear members in the plane, a problem of its own for each sample, right at the origin."""

    def __init__(self, members, norm="l2", weights=None):
        draw = torch.Generator().manual_seed(members)
        way = torch.randn(members, COUNT, 2, generator=draw, dtype=torch.float64)
        self.way = way / (way.norm(dim=2, keepdim=True) if norm == "l2" else way.abs().sum(2, keepdim=True))
        self.away = 1.5 * torch.rand(members, COUNT, generator=draw, dtype=torch.float64)
        self.weights = torch.full((members,), 1 / members).double() if weights is None else torch.tensor(weights)
        self.ids, self.y = torch.arange(COUNT), torch.zeros(COUNT, dtype=torch.int64)
        self.x = torch.zeros(COUNT, 1, 1, 2, dtype=torch.float64)
        self.threat = Threat(norm, 1.0, low=-9, high=9)
        self.heads = tuple(
            Head(f"m{n}", self._forward(n), weight=float(weight)) for n, weight in enumerate(self.weights)
        )

    def _forward(self, number):
        def forward(z, rng):
            margin = (self.way[number][rng.ids] * z.flatten(1)).sum(1) + self.away[number][rng.ids]
            return torch.stack([margin, -margin], 1) / 2

        return forward

    def error(self, z):
        wrong = torch.stack([head.forward(z, Rng(0, self.ids)).argmax(1) == 1 for head in self.heads])
        return (self.weights[:, None] * wrong).sum(0)

    def worst(self):
        """Of all directions: to linear members that are right at the origin the whole budget is never too much."""
        angle = torch.linspace(0, 2 * math.pi, 4001, dtype=torch.float64)
        way = torch.stack([angle.cos(), angle.sin()], 1)
        way = way if self.threat.norm == "l2" else way / way.abs().amax(1, keepdim=True)
        wrong = (self.way @ way.T + self.away[:, :, None]) < 0
        return (self.weights[:, None, None] * wrong).sum(0).amax(1)

    def attacked(self, attack):
        door = CountedHead(self.heads[0], self.heads[0].forward, Counts.of(self.ids))
        z = attack(mixed(door, self.heads, {}), self.x, self.y, threat=self.threat, rng=Rng(0, self.ids))
        assert self.threat.contains(z, self.x).all()
        return self.error(z)


def share(linear, attack):
    """Share of the problems on which the attack reaches the worst case."""
    reached, worst = linear.attacked(attack), linear.worst()
    assert (reached <= worst + 1e-9).double().mean() > 0.98  # the sweep may miss a narrow wedge
    return float((reached >= worst - 1e-9).double().mean())


def arc(variant, steps=1, **knobs):
    fixed = {"step_size": 1.0, "order": "probability", "overshoot": 0.05 if variant == "released" else 1e-3}
    return ARC(steps=steps, variant=variant, **(fixed | knobs))


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("members", [2, 3, 5])
def test_arc_reaches_what_an_angular_sweep_finds(members, norm):
    linear = Linear(members, norm)
    least = {2: 0.96, 3: 0.94, 5: 0.87}[members]
    exact, recentred, released = (share(linear, arc(name)) for name in ("exact", "recentred", "released"))
    assert exact >= recentred - 0.01
    assert recentred > released
    assert exact >= least
    assert share(linear, arc("exact", steps=5, order="random", restarts=3)) >= max(exact, 0.95)
    assert share(linear, LatticeClimber()) >= least - 0.03
    if norm == "l2" and members == 2:
        assert exact == 1


def test_the_mean_loss_misses_what_arc_finds():
    linear = Linear(5)
    assert share(linear, ExpectedPGD()) < share(linear, arc("exact")) - 0.1


def test_the_expected_accuracy_never_rises_on_the_way():
    linear = Linear(5, weights=[0.4, 0.3, 0.1, 0.1, 0.1])
    errors = [linear.attacked(arc(variant, steps)) for variant in ("released", "exact") for steps in range(1, 5)]
    for before, after in zip(errors[:3] + errors[4:7], errors[1:4] + errors[5:], strict=True):
        assert (after >= before - 1e-9).all()


def test_likely_members_come_first_and_unlikely_ones_are_given_up_for_them():
    linear = Linear(2, weights=[0.2, 0.8])
    error, worst = linear.attacked(arc("exact", steps=3)), linear.worst()
    assert (error >= worst - 1e-9).all()
    assert {0.2, 0.8} <= {round(value, 6) for value in error.tolist()}


def between(z, rng):
    """Two members that are wrong left and right of the image, both at a distance of one."""
    x = z.flatten(1)[:, :1]
    return torch.stack([torch.cat([1 + x, -1 - x], 1), torch.cat([1 - x, x - 1], 1)])


def test_pgd_between_two_members_reports_all_where_half_is_left():
    halves = torch.full((2,), 0.5, dtype=torch.float64)
    heads = (
        Head("softmax", lambda z, rng: expected_softmax(between(z, rng), halves)),
        Head("left", lambda z, rng: between(z, rng)[0], weight=0.5),
        Head("right", lambda z, rng: between(z, rng)[1], weight=0.5),
    )
    victim = Victim(heads[1].forward, (), heads, randomized=True, draws=2)
    x, y, ids = torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64), torch.arange(1)
    threat = Threat("linf", 1.5, low=-9, high=9)

    def least(attack, head):
        door = CountedHead(
            head, victim.predict, Counts.of(ids), member_predictors=tuple(h.forward for h in heads[1:]), trials=10
        )
        door = mixed(door, heads[1:], {}) if getattr(attack, "mixture", False) else door
        z = attack(door, x, y, threat=threat, rng=Rng(0, ids))
        return float((between(z, None).argmax(2) == y).double().mean())

    assert least(PGD(steps=100, random_start=False), heads[0]) == 1
    assert least(ExpectedPGD(loss="softmax", random_start=False), heads[0]) == 1
    assert least(ARC(variant="released"), heads[0]) == 0.5
    assert least(ARC(), heads[0]) == 0.5
    assert least(LatticeClimber(), heads[0]) == 0.5


def test_it_runs_once_on_all_members_and_on_each_head_of_another_defense():
    linear = Linear(2)
    heads = (Head("softmax", linear.heads[0].forward), *linear.heads)
    victim = Victim(linear.heads[0].forward, (), heads, randomized=True, draws=2)
    run = Evaluation(victim, ("arc", ARC()), linear.threat, 2, coverage="all")
    assert [stage.name for stage in run.stages] == ["arc/members"]
    plain = Victim(linear.heads[0].forward, (), (Head("other", linear.heads[1].forward),))
    run = Evaluation(plain, ("arc", ARC()), linear.threat, 2)
    assert [stage.name for stage in run.stages] == ["arc/true", "arc/other"]
    run = Evaluation(victim, ("arc", ARC()), linear.threat, 2, coverage="all", heads="true")
    assert [stage.name for stage in run.stages] == ["arc/true"]


def test_the_passes_of_every_member_are_booked():
    linear = Linear(3)
    counts = Counts.of(linear.ids)
    door = CountedHead(linear.heads[0], linear.heads[0].forward, counts)
    ARC(steps=1)(mixed(door, linear.heads, {}), linear.x, linear.y, threat=linear.threat, rng=Rng(0, linear.ids))
    assert (counts.forwards <= 3 + 3 * (1 + 3)).all()  # the image; each member's slope, and all at its candidate
    assert counts.forwards.max() == 15
    assert counts.backwards.max() == 3


@pytest.mark.parametrize(
    ("attack", "knobs"),
    [
        (ARC, {"variant": "other"}), (ARC, {"order": "other"}), (ARC, {"steps": 0}), (ARC, {"step_size": -1.0}),
        (ARC, {"overshoot": math.inf}), (ARC, {"targets": -1}), (ARC, {"restarts": 0}), (ExpectedPGD, {"loss": "ce"}),
        (ExpectedPGD, {"steps": 0}), (ExpectedPGD, {"step_size": 0.0}), (LatticeClimber, {"steps": 0}),
        (LatticeClimber, {"step_size": math.nan}),
    ],
)  # fmt: skip
def test_bad_knobs(attack, knobs):
    with pytest.raises(UserError, match=rf"attack\.{next(iter(knobs))}="):
        attack(**knobs)

"""An attack has what it needs and no more, and never more than the attacker is given."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from gauntlet.attacks.black_box.hop_skip_jump import HopSkipJump
from gauntlet.attacks.black_box.rays import RayS
from gauntlet.attacks.black_box.square import Square
from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.suite import Suite
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.access import DecisionHead, ScoreHead, narrowed, weaker
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

IDS = torch.arange(6)
X = Rng(0, IDS, "x").uniform((1, 4, 4))
RNG = Rng(0, IDS, "a")
BEYOND = ("gradient", "linearize", "counts", "head", "predict", "fast", "members", "forward", "logits")


class Net(nn.Module):
    """Two layers; counts the images that it saw, and keeps what it returned."""

    def __init__(self):
        super().__init__()
        rng = Rng(7, torch.arange(1), "weights")
        self.first, self.second = rng.normal((16, 24))[0] / 4, rng.stream("2").normal((24, 5))[0] / 2
        self.seen, self.graphs = 0, 0

    def forward(self, x):
        self.seen += len(x)
        scores = torch.relu((x - 0.5).flatten(1) @ self.first) @ self.second
        self.graphs += scores.requires_grad
        return scores


def metered():
    net = Net()
    victim = Victim(plain(net), (net,))
    return net, CountedHead(victim.heads[0], victim.predict, Counts.of(IDS))


@pytest.mark.parametrize(
    ("needs", "offers"), [("score", {"scores", "broken", "fallen", "blunted"}), ("decision", {"decisions", "broken"})]
)
def test_a_door_offers_no_more_than_was_asked_for(needs, offers):
    _, head = metered()
    door = narrowed(head, needs)
    assert {name for name in dir(door) if not name.startswith("_")} == offers
    assert not any(hasattr(door, name) for name in BEYOND)
    assert not hasattr(door, "__dict__")  # nothing can be hung onto it, or found in it
    assert narrowed(door, needs) is door


def test_a_narrow_door_does_not_open_wide():
    _, head = metered()
    door = narrowed(narrowed(head, "score"), "decision")
    assert isinstance(door, DecisionHead)
    assert narrowed(door, "score") is door
    assert narrowed(door, "gradient") is door
    assert narrowed(head, "gradient") is head


def test_decisions_are_classes_and_nothing_else():
    net, head = metered()
    z = X.clone().requires_grad_()
    found = narrowed(head, "decision").decisions(z, RNG)
    assert found.dtype == torch.int64
    assert found.shape == (6,)
    assert found.tolist() == net(X).argmax(1).tolist()
    assert not found.requires_grad
    assert net.graphs == 0


def test_scores_carry_no_gradient():
    net, head = metered()
    scores = narrowed(head, "score").scores(X.clone().requires_grad_(), RNG)
    assert torch.equal(scores, net(X))
    assert not scores.requires_grad
    assert net.graphs == 0


def test_every_question_is_counted():
    net, head = metered()
    y = net(X).argmax(1)
    net.seen = 0
    blind, scored = narrowed(head, "decision"), narrowed(head, "score")
    blind.decisions(X, RNG)
    assert not blind.broken(X, y, RNG).any()
    logits = scored.scores(X, RNG)
    assert not scored.broken(X, logits, y, RNG).any()  # the scores say so already
    assert head.counts.forwards.tolist() == [3] * 6
    assert head.counts.backwards.tolist() == [0] * 6
    assert net.seen == 18


class Nosy:
    """Looks at the door that it gets."""

    doors: ClassVar[list] = []

    def __init__(self, needs):
        self.needs = needs

    def __call__(self, head, x, y, *, threat, rng):
        self.doors.append(type(head))
        return x


@pytest.mark.parametrize(
    ("needs", "door"), [("gradient", CountedHead), ("score", ScoreHead), ("decision", DecisionHead)]
)
@pytest.mark.parametrize("nested", [False, True])
def test_an_evaluation_opens_the_narrowest_door(needs, door, nested):
    net = Net()
    Nosy.doors.clear()
    attack = Suite(stages={"outer": Suite(stages={"inner": Nosy(needs)})}) if nested else Nosy(needs)
    run = Evaluation(Victim(plain(net), (net,)), ("nosy", attack), Threat("linf", 0.1), 5)
    evaluate_chunk(run, Batch(IDS, X, net(X).argmax(1)))
    assert Nosy.doors == [door]


def evaluation(attack, access="gradient", gives="gradient", name="mine"):
    net = Net()
    return Evaluation(Victim(plain(net), (net,), access=gives), (name, attack), Threat("linf", 0.1), 5, access=access)


NESTED = Suite(stages={"a": RayS(), "b": Suite(stages={"c": PGD()})})


@pytest.mark.parametrize(
    ("attack", "access", "needs", "has"),
    [
        (PGD(), "decision", "attack=mine needs gradients", "decisions only"),
        (PGD(), "score", "attack=mine needs gradients", "scores only"),
        (Square(), "decision", "attack=mine needs scores", "decisions only"),
        (NESTED, "score", "attack.stages.b.stages.c needs gradients", "scores only"),
        (Nosy("training-set"), "score", "attack=mine needs gradients", "scores only"),
    ],
)
def test_what_needs_more_than_there_is_is_refused(attack, access, needs, has):
    out = {"decision": "rays or hop_skip_jump", "score": "square, rays or hop_skip_jump"}[access]
    for knobs, limit in (({"access": access}, "access"), ({"gives": access}, "the defense declares access")):
        with pytest.raises(UserError) as caught:
            evaluation(attack, **knobs)
        assert str(caught.value) == f"{needs}, the attacker has {has} ({limit}={access}); use attack={out}"


@pytest.mark.parametrize(
    ("attack", "access"),
    [
        (PGD(), "gradient"), (Square(), "score"), (Square(), "gradient"), (RayS(), "score"), (RayS(), "decision"),
        (HopSkipJump(), "decision"), (Suite(stages={"square": Square(), "rays": RayS()}), "score"),
    ],
)  # fmt: skip
def test_what_needs_less_is_welcome(attack, access):
    assert evaluation(attack, access).given == access
    assert evaluation(attack, "gradient", access).given == access


def test_the_less_counts():
    assert weaker("score", "decision") == weaker("decision", "gradient") == "decision"
    with pytest.raises(UserError, match="access=all"):
        weaker("all", "score")


def test_a_suite_needs_what_its_stages_need():
    assert Suite(stages={"a": RayS(), "b": Square()}).needs == "score"
    assert Suite(stages={"a": RayS()}).needs == "decision"
    assert Suite(stages={"a": Square(), "b": PGD()}).needs == "gradient"


def test_square_finds_the_same_whatever_the_attacker_was_given():
    net = Net()
    y = net(X).argmax(1)
    runs = [
        evaluate_chunk(evaluation(Square(queries=60), access), Batch(IDS, X, y)).rows
        for access in ("gradient", "score")
    ]
    assert runs[0].equals(runs[1])

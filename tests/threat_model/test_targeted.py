"""The head that makes attacks targeted: closed forms of its logits and gradients."""

import pytest
import torch

from gauntlet.attacks.losses import LOSSES, margins, scored
from gauntlet.errors import UserError
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.decision import misclassified
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.targeted import choose_targets, hits, target_margins, targeting, turned
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head

RNG = Rng(0, torch.arange(50), "cases")
SCORES = RNG.normal((6,), dtype=torch.float64)
LABELS = RNG.stream("y").integers((1,), 6).squeeze(1)


@pytest.mark.parametrize("rule", ["random", "least_likely", "runner_up"])
def test_targets_are_other_classes(rule):
    target = choose_targets(rule, SCORES, LABELS, RNG)
    assert (target != LABELS).all()
    others = SCORES.scatter(1, LABELS[:, None], torch.nan)
    for row, chosen in zip(others, target, strict=True):
        ordered = row.nan_to_num(-torch.inf).argsort(descending=True)
        if rule == "runner_up":
            assert chosen == ordered[0]
        if rule == "least_likely":
            assert chosen == ordered[-2]
    if rule == "random":
        assert len(set((target - LABELS).remainder(6).tolist())) == 5
        part = choose_targets(rule, SCORES[7:9], LABELS[7:9], RNG.select(torch.tensor([7, 8])))
        assert torch.equal(part, target[7:9])


def test_turned_logits_are_misclassified_where_the_target_is_predicted():
    target = choose_targets("random", SCORES, LABELS, RNG)
    logits = SCORES.clone()
    logits[::2] = logits[::2].scatter(1, target[::2, None], 3.0)
    logits[0] = 1.0  # a tie goes against the defense
    seen = turned(logits, LABELS, target)
    assert torch.equal(misclassified(seen, LABELS), hits(logits, target))
    assert torch.equal(margins(seen, LABELS), target_margins(logits, target))
    assert hits(logits, target)[0]
    assert torch.equal(hits(logits, target)[1:], (logits.argmax(1) == target)[1:])
    plain = SCORES[:, :2]  # of two classes the other one is the target: nothing changes but the shift
    y = LABELS % 2
    assert torch.equal(margins(turned(plain, y, 1 - y), y), margins(plain, y))


def head_of(weight, targets):
    network = torch.nn.Linear(6, 6, bias=False, dtype=torch.float64)
    network.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(x, rng):
        return network(x.flatten(1))

    head = CountedHead(Head("true", forward, exact=True), forward, Counts.of(RNG.ids))
    return head, targeting(head, LABELS, targets)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_a_loss_is_that_of_the_target_turned_round(name):
    x, target = SCORES.reshape(50, 1, 1, 6), choose_targets("random", SCORES, LABELS, RNG)
    weight = Rng(1, torch.arange(1), "w").normal((6, 6), dtype=torch.float64)[0]
    plain, aimed = head_of(weight, target)
    loss = LOSSES[name]
    logits, there = aimed.gradient(x, lambda z: loss(z, LABELS), RNG)
    raw, back = plain.gradient(x, lambda z: loss(z, target), RNG)
    assert torch.allclose(there, -back)
    assert torch.equal(logits, turned(raw, LABELS, target))
    _, pull = aimed.linearize(x, RNG)
    assert torch.allclose(
        pull(LOSSES["margin"](logits, LABELS)), -plain.gradient(x, lambda z: LOSSES["margin"](z, target), RNG)[1]
    )


def test_targeted_cross_entropy_by_autograd():
    x, target = (
        SCORES.reshape(50, 1, 1, 6).clone().requires_grad_(),
        choose_targets("least_likely", SCORES, LABELS, RNG),
    )
    _, aimed = head_of(torch.eye(6, dtype=torch.float64), target)
    _, gradient = aimed.gradient(x.detach(), lambda z: LOSSES["ce"](z, LABELS), RNG)
    torch.nn.functional.cross_entropy(x.flatten(1), target, reduction="sum").backward()
    assert torch.allclose(gradient / gradient.abs().amax(3, True), -x.grad / x.grad.abs().amax(3, True))


@pytest.mark.parametrize("name", ["ce", "margin", "dlr", "mifpe"])
def test_the_value_of_a_loss_rises_towards_the_target(name):
    target = choose_targets("random", SCORES, LABELS, RNG)
    step = torch.zeros_like(SCORES).scatter(1, target[:, None], 1.0)
    values = [scored(name).value(turned(SCORES + up * step, LABELS, target), LABELS) for up in (0.0, 0.5, 1.0)]
    assert (values[0] < values[1]).all()
    assert (values[1] < values[2]).all()


def test_the_threat_says_its_goal():
    assert Threat("linf", "8/255").label == "linf-8_255"
    assert Threat("linf", "8/255", goal="targeted").label == "linf-8_255-targeted-random"
    for knobs in ({"goal": "target"}, {"target": "far"}):
        with pytest.raises(UserError, match="choose one of"):
            Threat("linf", "8/255", **knobs)

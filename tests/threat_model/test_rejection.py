"""Fooled and accepted, written as logits."""

import pytest
import torch

from gauntlet.errors import UserError
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.decision import decided
from gauntlet.threat_model.rejection import answered, rejecting, selective, summed
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head

IDS = torch.arange(400)
RNG = Rng(0, IDS, "rejection")
LOGITS, Y = RNG.normal((5,)), RNG.stream("y").bits((1,)).squeeze(1) % 5
HAIR = torch.tensor([-1e-30, 0.0, 1e-30, -1e30])
ACCEPTANCE = torch.cat([HAIR.repeat(50), RNG.stream("a").normal((1,)).squeeze(1)[:200]])


@pytest.mark.parametrize("fold", [selective, answered])
def test_the_largest_logit_is_another_exactly_where_the_class_is_wrong_and_accepted(fold):
    found = decided(fold(LOGITS, ACCEPTANCE, Y), Y) != Y
    assert torch.equal(found, (LOGITS.argmax(1) != Y) & (ACCEPTANCE >= 0))


def test_the_margin_falls_from_right_over_rejected_to_accepted():
    logits = torch.tensor([[2.0, 0.0], [0.1, 0.0], [0.0, 0.1], [0.0, 2.0], [0.0, 2.0], [0.0, 2.0]])
    a = torch.tensor([3.0, -9.0, -5.0, -5.0, -0.1, 0.2])
    found = selective(logits, a, torch.zeros(6, dtype=torch.long))
    scaled = (found[:, 0] - found[:, 1]) / logits.std(1)
    assert (scaled.diff() <= 0).all()
    assert (scaled >= 0).tolist() == [True] * 5 + [False]


def test_while_the_class_is_right_the_detector_pulls_at_nothing_and_then_it_alone_does():
    a = torch.tensor([-2.0, -2.0], requires_grad=True)
    logits = torch.tensor([[3.0, 1.0, 0.0], [1.0, 3.0, 0.0]], requires_grad=True)
    found = selective(logits, a, torch.zeros(2, dtype=torch.long))
    by_class, by_detector = torch.autograd.grad((found[:, 0] - found[:, 1]).sum(), (logits, a))
    assert by_detector.tolist()[0] == 0
    assert by_detector[1] < 0
    assert by_class[0].tolist() == [1, -1, 0]
    assert by_class[1].abs().sum() == 0


def test_the_sum_pulls_at_both_until_acceptance_is_safe():
    a = torch.tensor([-2.0, 5.0], requires_grad=True)
    found = summed(LOGITS[:2], a, Y[:2])
    (slope,) = torch.autograd.grad(found.sum(), a)
    assert slope[0] < 0
    assert slope[1] == 0


def test_a_rejected_query_is_worse_than_every_answer_and_tells_nothing_more():
    logits = LOGITS[:2].repeat(2, 1)
    found = answered(logits, torch.tensor([-0.1, -9.0, 0.1, 9.0]), Y[:2].repeat(2))
    own = found.gather(1, Y[:2].repeat(2)[:, None]).squeeze(1)
    margin = own - found.scatter(1, Y[:2].repeat(2)[:, None], -torch.inf).amax(1)
    assert margin[:2].min() > margin[2:].max()
    near, far = (answered(logits[:1], torch.tensor([a]), Y[:1]) for a in (-0.1, -9.0))
    assert torch.equal(near, far)


def head(level, aim="selective", y=Y):
    def accepts(x, rng):
        return ACCEPTANCE[rng.ids] + 0 * x.flatten(1).sum(1)

    def predict(x, rng):
        return LOGITS[rng.ids] + 0 * x.flatten(1).sum(1, keepdim=True)

    counted = CountedHead(Head("true", predict, exact=aim == "selective", aim=aim), predict, Counts.of(IDS))
    return rejecting(counted, accepts, y, level)


@pytest.mark.parametrize("level", ["gradient", "score", "decision"])
def test_an_attack_is_told_of_success_where_the_judge_finds_it(level):
    counted, at = head(level), torch.tensor([3, 50, 201, 399])
    rng, x = RNG.select(at), torch.zeros(4, 1, 2, 2)
    told = counted.broken(x, counted.scores(x, rng), Y[at], rng, plain=True)
    assert torch.equal(told, (LOGITS[at].argmax(1) != Y[at]) & (ACCEPTANCE[at] >= 0))


def test_an_attacker_who_ignores_the_detector_stops_at_a_wrong_class():
    counted, x = head("gradient", "ignored"), torch.zeros(400, 1, 2, 2)
    told = counted.broken(x, counted.scores(x, RNG), Y, RNG, plain=True)
    assert torch.equal(told, LOGITS.argmax(1) != Y)


def test_without_labels_there_is_no_rejection():
    with pytest.raises(UserError, match="one perturbation for all images"):
        head("gradient", y=None)

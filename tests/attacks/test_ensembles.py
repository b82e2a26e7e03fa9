"""Ensembles of surrogates: fixed ones, SVRE and AdaEA."""

import itertools
import math

import pytest
import torch
from torch import nn

from gauntlet.attacks.transfer.adaea import AdaEA
from gauntlet.attacks.transfer.ensemble_gradient import Ensemble
from gauntlet.attacks.transfer.gradient_smoothing import Kernel
from gauntlet.attacks.transfer.input_diversity import Diversity
from gauntlet.attacks.transfer.momentum_ascent import Transfer
from gauntlet.attacks.transfer.svre import SVRE
from gauntlet.errors import UserError
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.targeted import check_targeted, exchanged
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, Victim, plain
from gauntlet.transfer.surrogates import EnsembleHead, ExchangedSurrogateHead, SurrogateHead, TargetedSurrogateHead

LINF = Threat("linf", 0.15)
KINDS = ("logits", "probabilities", "losses")


def crafted(attack, case, networks, order=None):
    """Candidates on named surrogates, handed over in some order, and the passes."""
    counts = Counts.of(case.ids)
    names = [f"s{k}" for k in range(len(networks))]
    heads = tuple(
        SurrogateHead(Head(n, plain(net)), plain(net), counts) for n, net in zip(names, networks, strict=True)
    )
    heads = tuple(heads[k] for k in order) if order else heads
    head = EnsembleHead(Head("ensemble", plain(networks[0])), plain(networks[0]), counts, together=heads)
    return attack(head, case.x, case.y, threat=LINF, rng=Rng(0, case.ids, "attack")), counts


def alone(attack, case):
    counts = Counts.of(case.ids)
    head = SurrogateHead(Head("s0", plain(case.network)), plain(case.network), counts)
    return attack(head, case.x, case.y, threat=LINF, rng=Rng(0, case.ids, "attack"))


@pytest.fixture
def exact(make_case):
    return make_case(dtype=torch.float64)


@pytest.fixture
def three(exact):
    class Bent(nn.Module):
        def forward(self, x):
            return exact.network(x) - exact.other(1 - x) / 3

    return [exact.network, exact.other, Bent()]


@pytest.mark.parametrize("kind", KINDS)
def test_an_ensemble_of_the_same_is_that_one(kind, exact):
    for pieces in ({}, {"views": {"di": Diversity(probability=0.7, rate=1.5)}, "kernel": Kernel(3), "nesterov": True}):
        z, _ = crafted(Transfer(ensemble=Ensemble(kind), **pieces), exact, [exact.network] * 2)
        assert torch.allclose(z, alone(Transfer(**pieces), exact), atol=1e-12)


def aimed(kind, case, network, name="s0"):
    target = (case.y + 1) % 5
    counts = Counts.of(case.ids)
    return kind(Head(name, plain(network)), plain(network), counts, labels=case.y, targets=target), target


@pytest.mark.parametrize("kind", KINDS)
def test_an_ensemble_moves_to_targets_along_the_gradient_of_their_probability(kind, exact, three):
    heads, targets = zip(
        *(aimed(ExchangedSurrogateHead, exact, network, f"s{k}") for k, network in enumerate(three)), strict=True
    )
    head = EnsembleHead(Head("ensemble", plain(three[0])), plain(three[0]), heads[0].counts, together=heads)
    leaf = exact.x.clone().requires_grad_()
    logits = torch.stack([network(leaf) for network in three])
    log = {"logits": logits.mean(0).log_softmax(1), "probabilities": logits.softmax(2).mean(0).log()}
    value = log[kind] if kind in log else logits.log_softmax(2).mean(0)
    (gradient,) = torch.autograd.grad(value.gather(1, targets[0][:, None]).sum(), leaf)
    wanted = LINF.project(exact.x + 0.15 * gradient.sign(), exact.x)
    attack = Transfer(steps=1, step_size=1.0, ensemble=Ensemble(kind))
    z = attack(head, exact.x, exact.y, threat=LINF, rng=Rng(0, exact.ids, "attack"))
    assert torch.allclose(z, wanted, atol=1e-12)
    z = Transfer(steps=5, ensemble=SVRE())(head, exact.x, exact.y, threat=LINF, rng=Rng(0, exact.ids, "attack"))
    before, after = (torch.stack([network(at) for network in three]).mean(0).log_softmax(1) for at in (exact.x, z))
    assert (after > before).gather(1, targets[0][:, None]).all()


def test_views_are_weighed_by_the_loss_of_the_target(exact):
    head, target = aimed(TargetedSurrogateHead, exact, exact.network)
    (member,) = head.members
    rng = Rng(0, exact.ids, "attack")
    assert torch.equal(member.scores(exact.x, rng), exchanged(exact.network(exact.x), exact.y, target))
    assert not torch.equal(head.scores(exact.x, rng), member.scores(exact.x, rng))


def test_adaea_has_no_targeted_form():
    victim = Victim(lambda x, rng: x, ())
    check_targeted("svre", Transfer(ensemble=SVRE()), victim)
    with pytest.raises(UserError, match="no targeted form"):
        check_targeted("adaea", Transfer(ensemble=AdaEA()), victim)


def true_gradient(kind, exact, networks, weights):
    leaf = exact.x.clone().requires_grad_()
    logits = torch.stack([net(leaf) for net in networks])
    w = torch.tensor(weights, dtype=torch.float64)[:, None, None] / sum(weights)
    pick = lambda log: log.gather(1, exact.y[:, None]).sum()  # noqa: E731
    if kind == "logits":
        loss = -pick((w * logits).sum(0).log_softmax(1))
    elif kind == "probabilities":
        loss = -pick((w * logits.softmax(2)).sum(0).log())
    else:
        loss = -sum(pick(log) for log in w * logits.log_softmax(2))
    return torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (5.0, 1.0, 2.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_one_step_follows_the_gradient_of_the_mean(kind, weights, exact, three):
    z, _ = crafted(Transfer(steps=1, ensemble=Ensemble(kind, weights)), exact, three)
    gradient = true_gradient(kind, exact, three, weights)
    assert torch.allclose(z, LINF.project(exact.x + 0.015 * gradient.sign(), exact.x), atol=1e-12)


@pytest.mark.parametrize(
    "ensemble", [*map(Ensemble, KINDS), Ensemble(standardise=True), SVRE(), AdaEA()], ids=lambda e: repr(e)[:30]
)
def test_the_order_of_the_surrogates_does_not_matter(ensemble, case):
    networks = [case.network, case.other, nn.Sequential(case.network, nn.ReLU())]
    first, _ = crafted(Transfer(steps=5, ensemble=ensemble), case, networks)
    for order in itertools.permutations(range(3)):
        assert torch.equal(crafted(Transfer(steps=5, ensemble=ensemble), case, networks, order)[0], first)


def test_standardised_logits_do_not_shout(exact):
    class Loud(nn.Module):
        def forward(self, x):
            return 1e4 * exact.other(x)

    fair, _ = crafted(Transfer(ensemble=Ensemble(standardise=True)), exact, [exact.network, exact.other])
    loud, _ = crafted(Transfer(ensemble=Ensemble(standardise=True)), exact, [exact.network, Loud()])
    shouted, _ = crafted(Transfer(ensemble=Ensemble()), exact, [exact.network, Loud()])
    assert torch.allclose(fair, loud, atol=1e-9)
    assert exact.broken(shouted).sum() < exact.broken(loud).sum()


def test_adaea_by_hand_for_two_members():
    # losses[k, i]: member k at the trial step of member i
    losses = torch.tensor([[[2.0], [1.0]], [[3.0], [4.0]]])
    paper = AdaEA(beta=10.0).weights(losses)
    rho = torch.tensor([10 * 3.0 / 4.0, 10 * 1.0 / 2.0])
    assert torch.allclose(paper[:, 0], rho.softmax(0))
    assert torch.allclose(AdaEA(form="released").weights(losses), paper)  # one other member: nothing to divide by


def test_adaea_forms_differ_where_the_code_does():
    losses = torch.tensor([[1.0, 0.5, 0.2], [0.4, 1.0, 0.6], [0.9, 0.1, 1.0]])[:, :, None]
    rises = torch.tensor([0.4 + 0.9, 0.5 + 0.1, 0.2 + 0.6])
    assert torch.allclose(AdaEA(beta=3.0).weights(losses)[:, 0], (1.5 * rises).softmax(0))
    assert torch.allclose(AdaEA(beta=3.0, form="released").weights(losses)[:, 0], (3 * rises).softmax(0))
    assert AdaEA().weights(torch.zeros(3, 3, 1)).isfinite().all()

    def pixels(*angles):
        return torch.tensor([[math.cos(a), math.sin(a), 0.0] for a in angles]).reshape(len(angles), 1, 3, 1, 1)

    spread = pixels(0, math.pi * 2 / 3, math.pi * 4 / 3)  # every cosine is -1/2
    assert AdaEA(threshold=-0.4).passes(spread).item() == 0
    assert AdaEA(threshold=-0.6).passes(spread).item() == 1
    # the released filter divides the sum over two of the three members by three: -1/3
    assert AdaEA(threshold=-0.4, form="released").passes(spread).item() == 1
    right = pixels(0, math.pi / 2)
    right[1, :, 0] = 0
    assert AdaEA(threshold=0.0).passes(right).item() == 0  # above it
    assert AdaEA(threshold=0.0, form="released").passes(right).item() == 1  # at it


@pytest.mark.parametrize("form", ["paper", "released"])
def test_adaea_on_identical_members_is_one_of_them(form, exact):
    for count in (2, 4):
        assert torch.allclose(AdaEA(form=form).weights(torch.ones(count, count, 3)), torch.full((count, 3), 1 / count))
        same = Rng(0, torch.arange(3), "g").normal((2, 4, 4))[None].expand(count, -1, -1, -1, -1)
        assert (AdaEA(form=form).passes(same) == 1).all()
        z, _ = crafted(Transfer(ensemble=AdaEA(form=form)), exact, [exact.network] * count)
        assert torch.allclose(z, alone(Transfer(), exact), atol=1e-12)


def test_adaea_keeps_the_pixels_that_members_dispute():
    same, other = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    other[..., 0, 0] = -1  # cosine -1 there
    mask = AdaEA().passes(torch.stack([same, other]))
    assert mask.flatten().tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("members", [2, 3])
def test_ensembles_cost_what_they_say(members, exact, three):
    def passes(ensemble):
        _, counts = crafted(Transfer(steps=4, ensemble=ensemble), exact, three[:members])
        assert len(set(counts.forwards.tolist())) == len(set(counts.backwards.tolist())) == 1
        return counts.forwards[0].item() // 4, counts.backwards[0].item() // 4

    k = members
    assert passes(Ensemble()) == (k, k)
    assert passes(Ensemble("losses")) == (k, k)
    assert passes(AdaEA()) == (k + k * k, 2 * k)
    assert passes(SVRE()) == (k + 4 * k, 2 * k + 4 * k)
    assert passes(SVRE(inner_steps=1)) == (k + 1, 2 * k + 1)


def test_svre_with_one_inner_step_is_the_ensemble(exact, three):
    # At the outer point the correction leaves exactly the gradient of the ensemble.
    z, _ = crafted(Transfer(ensemble=SVRE(inner_steps=1)), exact, three)
    ens, _ = crafted(Transfer(ensemble=Ensemble()), exact, three)
    assert torch.allclose(z, ens, atol=1e-12)
    many, _ = crafted(Transfer(ensemble=SVRE()), exact, three)
    assert not torch.allclose(many, ens, atol=1e-3)


@pytest.mark.parametrize("ensemble", [Ensemble(), SVRE(), AdaEA()], ids=lambda e: type(e).__name__)
def test_an_ensemble_of_one_is_refused(ensemble, case):
    with pytest.raises(UserError, match="two or more"):
        alone(Transfer(ensemble=ensemble), case)


def test_several_networks_need_an_ensemble(case):
    with pytest.raises(UserError, match="takes one network, there are 2"):
        crafted(Transfer(), case, [case.network, case.other])
    with pytest.raises(UserError, match="weights has 3 numbers for 2"):
        crafted(Transfer(ensemble=Ensemble(weights=(1.0, 2.0, 3.0))), case, [case.network, case.other])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ensemble("mean"),
        lambda: Ensemble(weights=(0.0, 1.0)),
        lambda: AdaEA(form="other"),
        lambda: AdaEA(threshold=2),
        lambda: SVRE(inner_steps=-1),
        lambda: Transfer(loss="margin", ensemble=Ensemble("probabilities")),
    ],
)
def test_mistakes_are_one_line(make):
    with pytest.raises(UserError):
        make()

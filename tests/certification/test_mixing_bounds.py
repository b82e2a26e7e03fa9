"""Mixtures proven by bounds on their robust network: against the worst accurate network, and as deployed."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gauntlet.certification.certifier import Work
from gauntlet.certification.linear_bounds import LinearBounds
from gauntlet.certification.mixing_bounds import MixingBounds, lead, needed, rounding
from gauntlet.defenses.mixing import Mixing
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain
from tests.certification.crown.conftest import NETWORKS, attacked, images


def victim_of(accurate, robust, **fields):
    return Mixing({"accurate": None, "robust": None}, **fields).deploy({"accurate": accurate, "robust": robust})


def certify(victim, x, y, threat, **fields):
    certifier = MixingBounds(**fields)
    certifier.check(victim, threat)
    with torch.no_grad():
        return certifier(victim, x, y, threat=threat, rng=Rng(0, torch.arange(len(x)), "certificate"), work=Work())


@given(
    st.lists(st.floats(-3, 12), min_size=1, max_size=6),
    st.floats(0.51, 1),
    st.lists(st.floats(0, 20), min_size=6, max_size=6),
)
def test_the_lead_is_what_the_worst_accurate_network_leaves(bounds, alpha, more):
    """g puts all on one other class. Any logits whose differences are at least the bounds do no worse."""
    bound = torch.tensor([bounds], dtype=torch.float64)
    found = float(lead(bound, alpha))
    for extra in (0.0, 1.0):
        apart = bound + extra * torch.tensor([more[: len(bounds)]])
        p = torch.cat([torch.zeros(1, 1), -apart], 1).softmax(1)
        worst = float(alpha * (p[0, 0] - p[0, 1:].amax()) - (1 - alpha))
        assert found <= worst + 1e-12
    if min(bounds) > 0:
        p = torch.cat([torch.zeros(1, 1), -bound], 1).softmax(1)
        exact = float(alpha * (p[0, 0] - p[0, 1:].amax()) - (1 - alpha)) - rounding(len(bounds) + 1)
        assert found == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("alpha", [0.6, 0.84, 1.0])
def test_what_is_needed_of_every_margin_is_just_enough(alpha, classes):
    least = needed(alpha, classes)
    assert float(lead(torch.full((1, classes - 1), least * (1 + 1e-9) + 1e-12, dtype=torch.float64), alpha)) > 0
    assert float(lead(torch.full((1, classes - 1), least * (1 - 1e-6) - 1e-9, dtype=torch.float64), alpha)) < 0
    assert needed(0.5, classes) == math.inf


def test_with_all_weight_on_the_robust_network_its_own_proof_is_left():
    module, shape = NETWORKS["dense"]
    x, threat = images(30, shape), Threat("linf", "4/255")
    y = module(x).argmax(1)
    mixture = certify(victim_of(module, module, alpha=1.0, robust_scale=50.0), x, y, threat, method="crown")
    alone = LinearBounds(method="crown")
    with torch.no_grad():
        proof = alone(
            Victim(plain(module), (module,)), x, y, threat=threat, rng=Rng(0, torch.arange(30), "c"), work=Work()
        )
    assert (mixture.radius > 0).any()
    assert not ((mixture.radius > 0) & (proof.radius == 0)).any()


class Adversary(torch.nn.Module):
    """The worst accurate network: all on the class that the robust one finds second."""

    def __init__(self, robust):
        super().__init__()
        self.robust = robust

    def forward(self, x):
        second = self.robust(x).topk(2, 1).indices[:, 1]
        return 1e4 * torch.nn.functional.one_hot(second, self.robust(x).shape[1]).float()


@pytest.mark.parametrize("alpha", [0.6, 0.9])
def test_no_attack_breaks_what_is_proven_against_the_worst_accurate_network(alpha):
    robust, shape = NETWORKS["dense"]
    victim = victim_of(Adversary(robust), robust, alpha=alpha, robust_scale=20.0)
    x, threat = images(40, shape), Threat("linf", 0.3).scaled(torch.linspace(0.005, 1, 40))
    rng = Rng(0, torch.arange(40), "attack")
    y = robust(x).argmax(1)
    found = certify(victim, x, y, threat, method="alpha_crown")
    certified = found.radius > 0
    broken = victim.predict(x, rng).argmax(1) != y
    assert torch.equal(found.predict, victim.predict(x, rng).argmax(1))
    for z in attacked(robust, x, y, threat):
        broken |= (victim.predict(z, rng).argmax(1) != y) & threat.contains(z, x)
    assert not (broken & certified).any()
    assert certified.any()
    assert broken.any()


def test_more_weight_on_the_robust_network_proves_no_less():
    robust, shape = NETWORKS["dense"]
    x, threat = images(30, shape), Threat("linf", "4/255")
    y = robust(x).argmax(1)
    proven = [
        certify(victim_of(robust, robust, alpha=alpha, robust_scale=20.0), x, y, threat).radius > 0
        for alpha in (0.55, 0.7, 0.99)
    ]
    assert all(not (less & ~more).any() for less, more in itertools.pairwise(proven))
    assert proven[0].sum() < proven[-1].sum()


def test_what_it_refuses():
    module, _ = NETWORKS["dense"]
    with pytest.raises(UserError, match=r"weight 0\.5 of the robust network"):
        MixingBounds().check(victim_of(module, module, alpha=0.5), Threat("linf", 0.1))
    with pytest.raises(UserError, match="needs a mixture of an accurate and a robust network, such as defense=mixing"):
        MixingBounds().check(Victim(plain(module), (module,), mechanism=module), Threat("linf", 0.1))
    with pytest.raises(UserError, match="knows threat=linf and threat=l2, not l1"):
        MixingBounds().check(victim_of(module, module), Threat("l1", 0.1))

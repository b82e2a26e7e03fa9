"""The certifier over the bounds: what it refuses, what it records, and that no attack contradicts it."""

import pytest
import torch
from torch import nn

from gauntlet.certification.certifier import Work
from gauntlet.certification.linear_bounds import LinearBounds
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain
from tests.certification.crown.conftest import NETWORKS, attacked, images, margins


def certify(module, x, y, threat, **fields):
    certifier, victim = LinearBounds(**fields), Victim(plain(module), (module,))
    certifier.check(victim, threat)
    with torch.no_grad():
        return certifier(victim, x, y, threat=threat, rng=Rng(0, torch.arange(len(x)), "certificate"), work=Work())


def test_a_certificate_is_the_radius_of_the_threat_or_nothing():
    module, shape = NETWORKS["dense"]
    x, threat = images(40, shape), Threat("linf", "2/255")
    y = module(x).argmax(1)
    y[::4] = (y[::4] + 1) % 3
    found = certify(module, x, y, threat, method="crown")
    wrong = found.predict != y
    assert wrong.tolist() == [i % 4 == 0 for i in range(40)]
    assert set(found.radius.tolist()) == {0.0, 2 / 255}
    assert torch.equal(found.radius > 0, found.margin > 0)
    assert not found.radius[wrong].any()
    torch.testing.assert_close(found.margin[wrong].float(), margins(module(x), y).amin(1)[wrong])
    assert (found.samples == 0).all()


def test_no_attack_breaks_what_is_certified():
    """Margin PGD on images with budgets of their own, so that both sides have work to do."""
    module, shape = NETWORKS["dense"]
    x, threat = images(20, shape), Threat("linf", 0.5).scaled(torch.linspace(0.02, 1, 20))
    y = module(x).argmax(1)
    certified = certify(module, x, y, threat, method="alpha_crown").radius > 0
    broken = torch.zeros(20, dtype=torch.bool)
    for z in attacked(module, x, y, threat):
        broken |= (module(z).argmax(1) != y) & threat.contains(z, x)
    assert not (broken & certified).any()
    assert certified.any()
    assert broken.any()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": "beta"}, "certifier.method='beta' is unknown; choose one of ibp"),
        ({"steps": 0}, "certifier.steps=0"),
        ({"inner_steps": -1}, "certifier.inner_steps=-1"),
        ({"memory": 0}, "certifier.memory=0"),
    ],
)
def test_bad_fields(fields, said):
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        LinearBounds(**fields)


def test_random_defenses_and_other_norms_are_refused():
    module = NETWORKS["dense"][0]
    with pytest.raises(UserError, match="deterministic"):
        LinearBounds().check(Victim(plain(module), (module,), randomized=True), Threat("linf", 0.1))
    with pytest.raises(UserError, match="threat=linf and threat=l2"):
        LinearBounds().check(Victim(plain(module), (module,)), Threat("l1", 1))


def test_a_network_with_a_state_is_refused():
    class Counting(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x.flatten(1) * self.calls

    x = images(2, (1, 1, 3))
    with pytest.raises(UserError, match="keeps a state"):
        certify(Counting(), x, torch.tensor([0, 1]), Threat("linf", 0.1))


def test_memory_changes_no_answer():
    module, shape = NETWORKS["residual"]
    x, threat = images(3, shape), Threat("linf", 0.02)
    y = module(x).argmax(1)
    small, large = (certify(module, x, y, threat, method="alpha_crown", memory=m) for m in (0.01, 64))
    torch.testing.assert_close(small.margin, large.margin, atol=1e-5, rtol=0)

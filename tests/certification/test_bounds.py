"""The certifier over the bounds: what it refuses, what it records, and that no attack contradicts it."""

import pytest
import torch
from torch import nn

from gauntlet.certification.certifier import Work
from gauntlet.certification.linear_bounds import LinearBounds, _points
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


class Shy(nn.Module):
    """Adds to the first score what it reads past the functions that are noted: how far an image lies from some."""

    def __init__(self, x, far):
        super().__init__()
        self.x, self.far, self.traced = x, far, False

    def forward(self, x):
        scores, traced, self.traced = x.flatten(1) * 1.0, self.traced, True
        if not traced:  # what the tracer sees
            return scores
        away = (x - self.x).abs().flatten(1).amax(1)
        return scores + (away > self.far)[:, None] * torch.tensor([-9.0, 0.0, 0.0])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_network_that_differs_away_from_the_images_is_refused(norm):
    x = 0.4 + images(6, (1, 1, 3)) * 0.01
    x[:, 0, 0, 0] += 0.4
    y = torch.zeros(6, dtype=torch.int64)
    assert (certify(Shy(x, 9.0), x, y, Threat(norm, 0.1)).radius > 0).all()  # it never leaves its path
    with pytest.raises(UserError, match="branches on its input"):
        certify(Shy(x, 0.05), x, y, Threat(norm, 0.1))
    with pytest.raises(UserError, match="branches on its input"):
        certify(Shy(x, 0.05), x, y, Threat("linf", "unbounded"))


def test_the_points_that_are_compared_are_legal_and_reach_the_corners():
    x = images(5, (2, 3, 3)) * 0.5 + 0.25
    for threat, budget in ((Threat("linf", 0.1), 0.1), (Threat("l2", 0.3), 0.3)):
        clean, pushed, corner, inside = _points(threat, x, Rng(0, torch.arange(5)))
        assert torch.equal(clean, x)
        for z in (pushed, corner, inside):
            assert threat.contains(z, x).all()
        torch.testing.assert_close(threat.distance(corner, x).float(), torch.full((5,), budget))
        assert ((pushed - x).flatten(1).sign().sum(1).abs() == 18).all()


def test_memory_changes_no_answer():
    module, shape = NETWORKS["residual"]
    x, threat = images(3, shape), Threat("linf", 0.02)
    y = module(x).argmax(1)
    small, large = (certify(module, x, y, threat, method="alpha_crown", memory=m) for m in (0.01, 64))
    torch.testing.assert_close(small.margin, large.margin, atol=1e-5, rtol=0)

"""Bounds of auto_LiRPA as claims; without that package one line says how to get it."""

import sys
import warnings

import pytest
import torch
from torch import nn

from gauntlet.certification.auto_lirpa import AutoLirpa, _outwards
from gauntlet.certification.certifier import Work
from gauntlet.certification.linear_bounds import LinearBounds
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain


def victim(net):
    net = net.eval().requires_grad_(False)
    return Victim(plain(net), (net,))


@pytest.fixture
def package():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("auto_LiRPA", reason="auto_LiRPA is optional")


def certified(certifier, net, x, y, threat):
    subject = victim(net)
    certifier.check(subject, threat)
    rng = Rng(0, torch.arange(len(x)))
    with torch.no_grad():
        return certifier(subject, x, y, threat=threat, rng=rng, work=Work())


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "auto_LiRPA", None)
    with pytest.raises(
        UserError, match=r"needs auto_LiRPA, which is not installed: pip install .*--no-deps git\+https"
    ):
        AutoLirpa().check(victim(nn.Linear(2, 2)), Threat("linf", 0.1))


def test_a_box_is_rounded_outwards():
    value = torch.tensor([0.1, 0.3, 0.5, 1 / 3], dtype=torch.float64)
    assert (_outwards(value, 1.0).double() >= value).all()
    assert (_outwards(value, -1.0).double() <= value).all()
    assert (_outwards(value, 1.0) - _outwards(value, -1.0) <= 6e-8).all()
    assert _outwards(value, 1.0)[2] == 0.5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "crown"])
def test_a_linear_network_has_its_closed_form(package, method):
    """Margin - eps |w|_1 in the middle of the box, whatever the method."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    x = torch.rand(6, 1, 2, 2) * 0.4 + 0.3
    net = nn.Sequential(nn.Flatten(), layer)
    y = net(x).argmax(1)
    eps = 0.01
    found = certified(AutoLirpa(method=method), net, x, y, Threat("linf", eps))
    with torch.no_grad():
        rows, scores = layer.weight[y][:, None] - layer.weight, net(x)
        margins = scores.gather(1, y[:, None]) - scores - eps * rows.abs().sum(2)
        expected = margins.scatter(1, y[:, None], torch.inf).amin(1)
    torch.testing.assert_close(found.margin.float(), expected, atol=1e-5, rtol=0)
    assert (found.radius > 0).tolist() == (expected > 0).tolist()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_claims_what_crown_proves_and_no_more_beyond_rounding(package, norm):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    x = torch.rand(8, 1, 6, 6)
    y = net.eval()(x).argmax(1)
    y[0] = (y[0] + 1) % 3  # wrong as it is
    threat = Threat(norm, 0.02)
    ours, theirs = (certified(each, net, x, y, threat) for each in (LinearBounds("crown"), AutoLirpa()))
    assert theirs.predict.tolist() == ours.predict.tolist()
    assert theirs.radius[0] == 0
    open_ = ours.margin <= 0  # what is proven by a cheaper method keeps the margin of that one
    assert (ours.margin >= theirs.margin - 1e-4)[open_].all()
    assert (ours.radius > 0)[theirs.margin > 1e-4].all()
    assert 3 <= (theirs.radius > 0).sum() < 8
    assert AutoLirpa().origin.startswith("auto_LiRPA ")
    assert (AutoLirpa.kind, AutoLirpa().confidence) == ("claimed", 0.0)


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_it_reads_otherwise_is_refused(package):
    """Its reader runs an image of its own choice, on which this network turns the scores around."""
    layer, calls = nn.Linear(4, 3), []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            calls.append(len(x))
            return self.layer(x.flatten(1)) * (1 if len(calls) < 2 else -1)

    x = torch.rand(3, 1, 2, 2)
    y = layer(x.flatten(1)).argmax(1)
    with pytest.raises(UserError, match=r"auto_LiRPA (reads another|cannot read this) network"):
        certified(AutoLirpa(), Counting(), x, y, Threat("linf", 0.001))

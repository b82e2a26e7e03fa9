"""The same margins by another program, where it is installed; nothing else needs it."""

import warnings

import pytest
import torch

from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.margin_bounds import prove
from gauntlet.threat_model.threat import Threat
from tests.certification.crown.conftest import NETWORKS, dense, effort, images, network_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lirpa = pytest.importorskip("auto_LiRPA", reason="auto_LiRPA is optional; with it these margins are compared")

pytestmark = pytest.mark.filterwarnings("ignore")

THEIRS = {"ibp": "IBP", "crown_ibp": "CROWN-IBP", "crown": "CROWN"}
CASES = {"one hidden layer": (dense(8, 12, 3), (2, 2, 2)), **NETWORKS}


def both(name, method, eps):
    """Margins of the least likely class, which no method proves and so none skips: ours, theirs; [B, K - 1]."""
    module, shape = CASES[name]
    x = images(4, shape)
    y = module(x).argmin(1)
    ours = prove(network_of(module, shape), legal(Threat("linf", eps), x), y, effort(method)).margins
    eye = torch.eye(3)
    rows = torch.stack([eye[c] - eye[[k for k in range(3) if k != c]] for c in y.tolist()])
    ball = lirpa.PerturbationLpNorm(norm=float("inf"), x_L=(x - eps).clamp(0, 1), x_U=(x + eps).clamp(0, 1))
    bounded = lirpa.BoundedModule(module, torch.empty_like(x), bound_opts={"conv_mode": "matrix"})
    image = lirpa.BoundedTensor(x, ball)
    theirs, _ = bounded.compute_bounds(x=(image,), C=rows, method=THEIRS[method], bound_upper=False)
    return ours, theirs.double()


@pytest.mark.parametrize("method", list(THEIRS))
def test_where_only_one_layer_is_relaxed_the_margins_are_equal(method):
    ours, theirs = both("one hidden layer", method, 0.1)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", list(THEIRS))
@pytest.mark.parametrize("name", list(NETWORKS))
def test_elsewhere_ours_are_no_looser(name, method):
    """Ours intersect the intervals of both methods before a ReLU is relaxed."""
    ours, theirs = both(name, method, 0.05)
    assert (ours >= theirs - 1e-4).all()
    if method == "ibp":
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)

"""Lines of GELU, SiLU, squares and inverse roots, and transformers with them, layer norm and the attention of torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from gauntlet.certification.crown.graph_tracing import trace
from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.margin_bounds import prove
from gauntlet.certification.crown.smooth_curves import GELU, SILU, SQUARE, TANH_GELU, inverse_root
from gauntlet.errors import UserError
from gauntlet.threat_model.threat import Threat
from tests.certification.crown.conftest import attacked, effort, images, margins, network_of, seeded
from tests.certification.crown.transformers import SHAPE, transformer

CURVES = {"gelu": GELU, "tanh gelu": TANH_GELU, "silu": SILU, "square": SQUARE, "rsqrt": inverse_root(1e-5)}


@pytest.mark.parametrize("name", list(CURVES))
def test_lines_and_ranges_hold_on_their_intervals_and_are_near(name):
    curve, rng = CURVES[name], torch.Generator().manual_seed(0)
    ends = 6 * torch.rand(1000, 2, generator=rng, dtype=torch.float64) ** 2
    if name == "rsqrt":
        ends += 0.01
    else:
        ends *= 2 * torch.rand(1000, 2, generator=rng) - 1
    ends[:50] = ends[:50, :1]  # points
    ends[50:100, 1] = ends[50:100, 0] + 1e-7
    low, high = ends.amin(1), ends.amax(1)
    z = low + (high - low) * torch.linspace(0, 1, 307, dtype=torch.float64)[:, None]
    value, (least, most) = curve.at(z), curve.range(low, high)
    (up, over), (down, under) = curve.above(low, high), curve.below(low, high)
    above, below = up * z + over - value, value - down * z - under
    assert (above >= 0).all()
    assert (below >= 0).all()
    assert (least <= value).all()
    assert (most >= value).all()
    for gap in (above, below, most - value, value - least):  # none could be moved much closer
        assert float(gap.amin(0).max()) < 0.02
    small = high - low < 1e-6
    assert float(torch.cat([above[:, small], below[:, small]]).abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["gelu", "tanh gelu", "silu", "square"])
def test_second_derivatives_are_bounded(name):
    curve = CURVES[name]
    z = torch.linspace(-12, 12, 40001, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(curve.at(z).sum(), z)
    torch.testing.assert_close(curve.slope(z.detach()), first)
    (second,) = torch.autograd.grad(curve.slope(z).sum(), z)
    assert second.abs().max() <= curve.bend


def test_rounding_covers_what_float32_does():
    z = torch.linspace(-9, 9, 20001)
    for name, function in (("gelu", functional.gelu), ("silu", functional.silu)):
        exact = CURVES[name].at(z.double())
        assert ((function(z).double() - exact).abs() <= CURVES[name].rounding(exact.abs(), z.double().abs())).all()


KINDS = {
    "gelu": {"bend": nn.GELU, "whole": True},
    "layer norm": {"norm": nn.LayerNorm, "bend": nn.SiLU, "pooled": True},
    "as published": {"norm": nn.LayerNorm, "bend": lambda: nn.GELU("tanh"), "whole": True, "depth": 2},
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_image_does_worse(kind):
    """The class is the least likely one: nothing is proven, and so no method left out."""
    module = transformer(list(KINDS).index(kind), **KINDS[kind])
    x = images(2, SHAPE)
    y, made, threat = module(x).argmin(1), network_of(module, SHAPE), Threat("linf", 0.004)
    torch.testing.assert_close(made.exact.forward(x.double()).float(), module(x))
    least = margins(module(x), y)
    for z in attacked(module, x, y, threat, starts=1, steps=6):
        assert threat.contains(z, x).all()
        least = least.minimum(margins(module(z), y))
    found = [prove(made, legal(threat, x), y, effort(m)).margins for m in ("ibp", "crown")]
    for each in found:
        assert (each <= least).all()
        assert each.isfinite().all()
    assert (found[1] > found[0]).all()
    assert (found[1] > least - 0.5 * least.abs() - 5).all()


REFUSED = {
    "pow other than the square": lambda x: x.pow(3),
    "a mask": lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True),
    "more than the last axis": lambda x: functional.layer_norm(x, x.shape[1:]),
}


@pytest.mark.parametrize("said", list(REFUSED))
def test_what_is_missing_is_named(said):
    head = seeded(nn.Linear(32, 3))
    with pytest.raises(UserError, match=said):
        trace(lambda x: head(REFUSED[said](x.flatten(2)).flatten(1)), (head,), (2, 4, 4))

"""Planes of products and softmax, parts of images put elsewhere, and points of balls against what is proven."""

import pytest
import torch
from torch import nn

from gauntlet.certification.branch_and_bound import BranchAndBound
from gauntlet.certification.certifier import Work
from gauntlet.certification.crown.graph import Graph
from gauntlet.certification.crown.ibp import intervals
from gauntlet.certification.crown.input_region import Region, legal
from gauntlet.certification.crown.margin_bounds import METHODS, prove, tightened
from gauntlet.certification.crown.products import Product, Times
from gauntlet.certification.crown.softmaxes import Softmax
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain
from tests.certification.crown.conftest import attacked, effort, graph_of, images, margins, network_of, seeded
from tests.certification.crown.transformers import SHAPE, transformer

OPERATIONS = {
    "product": (Product(4), [(2, 3, 4), (2, 4, 2)]),
    "shares": (Product(4, shares=True), [(2, 3, 4), (2, 4, 2)]),
    "times": (Times(), [(3, 4), (3, 4)]),
    "softmax": (Softmax(), [(3, 5)]),
}


def boxes(name, width):
    """Boxes [B, ...] for the inputs of an operation, and points in them: corners, middles and random ones."""
    rng = torch.Generator().manual_seed(0)
    lows, highs, points = [], [], []
    for number, shape in enumerate(OPERATIONS[name][1]):
        low = 2 * torch.randn(16, *shape, generator=rng, dtype=torch.float64)
        high = low + width * torch.rand(low.shape, generator=rng, dtype=torch.float64)
        if name == "shares" and number == 0:  # a box around shares, and shares in it
            ends = torch.stack([low, *(low + width * torch.randn(4, *low.shape, generator=rng))]).softmax(-1)
            lows.append(ends.amin(0))
            highs.append(ends.amax(0))
            mix = torch.rand(301, 5, generator=rng, dtype=torch.float64)
            points.append(torch.einsum("pk,k...->p...", mix / mix.sum(1, keepdim=True), ends))
            continue
        lows.append(low)
        highs.append(high)
        t = torch.rand(200, *low.shape, generator=rng, dtype=torch.float64)
        t = torch.cat([t, t.round()[:100], torch.full_like(t[:1], 0.5)])
        points.append(low + t * (high - low))
    return lows, highs, points


@pytest.mark.parametrize("width", [0.0, 1e-3, 1.0, 30.0])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_planes_and_intervals_hold_on_their_boxes(name, width):
    op = OPERATIONS[name][0]
    low, high, points = boxes(name, width)
    least, most = op.interval(low, high)
    planes = op.planes(low, high)
    gaps = []
    for z in zip(*points, strict=True):
        value = op.at(*z)
        under = planes.floor + sum(link.forward(part) for link, part in zip(planes.lower, z, strict=True))
        over = planes.ceiling + sum(link.forward(part) for link, part in zip(planes.upper, z, strict=True))
        room = 1e-11 * (1 + value.abs())
        assert (under <= value + room).all()
        assert (over >= value - room).all()
        assert (least <= value + room).all()
        assert (most >= value - room).all()
        gaps.append((value - under).maximum(over - value))
    if width <= 1e-3:  # what is lost is of second order
        assert torch.stack(gaps).max() < 20 * width**2 + 1e-5 * (name == "shares") + 1e-10


def test_intervals_of_softmax_and_products_are_attained():
    """At corners of the boxes."""
    (low,), (high,), _ = boxes("softmax", 1.0)
    least, most = Softmax().interval([low], [high])
    corner = high.clone()
    corner[..., 2] = low[..., 2]
    torch.testing.assert_close(least[..., 2], corner.softmax(-1)[..., 2])
    torch.testing.assert_close(most[..., 2], (low + high - corner).softmax(-1)[..., 2])
    (x, y), (r, s), _ = boxes("times", 1.0)
    ends = torch.stack([a * b for a in (x, r) for b in (y, s)])
    torch.testing.assert_close(torch.stack(Times().interval([x, y], [r, s])), torch.stack([ends.amin(0), ends.amax(0)]))
    wide = Product(1).interval(*([each[..., None, None] for each in side] for side in ([x, y], [r, s])))
    torch.testing.assert_close(torch.stack(wide)[..., 0, 0], torch.stack([ends.amin(0), ends.amax(0)]))


class Parts(nn.Module):
    """A function of tokens [B, 4, 4], and a head on what it gives."""

    def __init__(self, function):
        super().__init__()
        self.function, self.head = function, nn.Linear(function(torch.zeros(2, 4, 4))[0].numel(), 3)

    def forward(self, x):
        return self.head(self.function(x.flatten(2)[:, 0].reshape(-1, 4, 4)).flatten(1))


MATRIX = torch.linspace(-1, 1, 20).reshape(4, 5)

PARTS = {
    "permute": lambda x: x.permute(0, 2, 1),
    "rows": lambda x: x[:, 1:, ::2],
    "one row": lambda x: x.select(1, 2),
    "chunks": lambda x: torch.cat(x.chunk(2, -1)[::-1], 1),
    "unbind": lambda x: x.unbind(1)[3],
    "split": lambda x: x.split([1, 3], 2)[1],
    "index": lambda x: x[:, torch.tensor([2, 0, 0])],
    "expand": lambda x: x.mean(1, keepdim=True).expand(-1, 3, -1),
    "repeat": lambda x: x.repeat(1, 2, 1),
    "class token": lambda x: torch.cat([torch.ones(1, 1, 4).expand(len(x), -1, -1), x], 1),
    "two sources": lambda x: torch.stack([torch.relu(x), x], 2),
    "roll": lambda x: x.roll(1, 1),
    "matmul": lambda x: x @ MATRIX,
    "matmul from the left": lambda x: torch.matmul(MATRIX.T, x),
    "sum": lambda x: x.sum(-1),
    "mean of everything": lambda x: x.mean((-1, 1), keepdim=True),
    "three in one": lambda x: x.reshape(len(x), 4, 2, 2).permute(2, 0, 3, 1)[1],
    "difference": lambda x: torch.relu(x) - x[:, :1],
    "sum of two shapes": lambda x: torch.relu(x) + x[:, :, :1],
    "merged": lambda x: torch.bmm(x.reshape(-1, 2, 4), x.reshape(-1, 4, 2)).mul(0.5).softmax(-1).view(len(x), -1),
    "softmax of columns": lambda x: x.softmax(1),
    "product": lambda x: x * x[:, :1],
}


@pytest.mark.parametrize("name", list(PARTS))
def test_functions_of_torch(name):
    module, x = Parts(PARTS[name]).requires_grad_(False), images(3, (1, 4, 4))
    graph = graph_of(module, (1, 4, 4))
    torch.testing.assert_close(graph.forward(x.double()).float(), module(x))
    for node in graph.nodes:
        if hasattr(node.op, "transpose") and node.inputs:
            z = images(2, graph.nodes[node.inputs[0]].shape).double()
            a = images(2, node.shape, 2).double()
            left, right = (node.op.forward(z) * a).flatten(1).sum(1), (z * node.op.transpose(a)).flatten(1).sum(1)
            torch.testing.assert_close(left, right)


REFUSED = {
    "linear across images": lambda x: nn.functional.linear(x.permute(1, 0, 2), torch.ones(4, 4)),
    "softmax across images": lambda x: x.softmax(0),
    "relu across images": lambda x: x.flip(0).relu(),
    "cat with a constant of its own for each image": lambda x: torch.cat([torch.rand(2, 1, 4), x], 1),
    "einsum": lambda x: torch.einsum("bij,bkj->bik", x, x),
    "merged with another": lambda x: nn.functional.conv1d(x.reshape(4, 2, 4), torch.ones(1, 2, 1)),
}


@pytest.mark.parametrize("said", list(REFUSED))
def test_what_is_missing_is_named(said):
    with pytest.raises(UserError, match="bounds do not support") as caught:
        graph_of(Parts(REFUSED[said]), (1, 4, 4))
    assert said in str(caught.value)


def test_a_linear_network_stays_exact():
    module = Parts(lambda x: torch.cat([x @ MATRIX, x[:, :, :2]], 2).permute(0, 2, 1)[:, 1:]).requires_grad_(False)
    seeded(module)
    x, eps = 0.3 + 0.4 * images(4, (1, 4, 4)), 0.1
    y = module(x).argmax(1)
    slope = torch.autograd.functional.jacobian(lambda z: margins(module(z), y).sum(0), x).flatten(2).abs().sum(2).T
    exact = margins(module(x), y) - (eps + 2.1e-7) * slope
    for method in METHODS:
        found = prove(network_of(module, (1, 4, 4)), legal(Threat("linf", eps), x), y, effort(method)).margins
        proven = found.amin(1) <= 0  # those that a cheaper method proves leave with its margins
        if method != "ibp":
            torch.testing.assert_close(found[proven].float(), exact[proven], atol=2e-5, rtol=0)


KINDS = {
    "plain": {},
    "deep": {"depth": 2},
    "pooled": {"pooled": True, "scale": 3.0},
    "sharp": {"scale": 8.0},
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_on_one_point_margins_are_the_clean_ones(kind):
    module = transformer(**KINDS[kind])
    x = images(3, SHAPE)
    y, point = module(x).argmin(1), x.double()  # nothing is proven, and so no method left out
    for method, room in (("ibp", 0.1), ("crown", 5e-3)):
        found = prove(network_of(module, SHAPE), Region(point, point, point), y, effort(method)).margins
        torch.testing.assert_close(found, margins(module(x), y).double(), atol=room, rtol=0)


@pytest.mark.parametrize(("kind", "norm"), [("plain", "l2"), *((kind, "linf") for kind in KINDS)])
def test_no_image_does_worse(kind, norm):
    """The class is the least likely one: nothing is proven, and so no method left out."""
    seed = list(KINDS).index(kind) + 9 * (norm == "l2")
    module = transformer(seed, **KINDS[kind])
    x = images(2, SHAPE, seed)
    y = module(x).argmin(1)
    made = network_of(module, SHAPE)
    threat = Threat(norm, 0.01 if norm == "linf" else 0.03)
    least = margins(module(x), y)
    for z in attacked(module, x, y, threat, starts=2, steps=5):
        assert threat.contains(z, x).all()
        least = least.minimum(margins(module(z), y))
    found = [prove(made, legal(threat, x), y, effort(m, steps=2)).margins for m in METHODS]
    for each in found:
        assert (each <= least).all()
        assert each.isfinite().all()
    assert (found[2] > found[0]).all()


def test_ranges_hold_every_node():
    """Values of all nodes at points of the ball, computed in float64 from the images, lie within their bounds."""
    for seed in range(2):
        module = transformer(seed, depth=1 + seed, scale=3.0)
        x, made = images(1, SHAPE, seed), network_of(module, SHAPE)
        threat = Threat("linf", 0.02)
        region = legal(threat, x)
        wide = intervals(made.exact, region)
        tight = tightened(made, region, wide, 0, 4.0)
        rng = torch.Generator().manual_seed(seed)
        for z in [x, *(threat.project(x + 0.02 * torch.randn(x.shape, generator=rng).sign(), x) for _ in range(5))]:
            for at in (*made.exact.curved(), *made.exact.rectified()):
                value = Graph(made.exact.nodes[: at + 1]).forward(z.double())
                for ranges in (wide, tight):
                    assert (value >= ranges.lower[at]).all()
                    assert (value <= ranges.upper[at]).all()


def test_branch_and_bound_names_the_operation():
    module, x = transformer(), images(2, SHAPE)
    with pytest.raises(UserError, match=r"is a product of matrices; take certifier=crown"):
        BranchAndBound()(
            Victim(plain(module), (module,)),
            x,
            torch.zeros(2, dtype=torch.int64),
            threat=Threat("linf", 0.1),
            rng=Rng(0, torch.arange(2), "c"),
            work=Work(),
        )

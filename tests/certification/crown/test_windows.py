"""Windows of nodes: their sizes, sums and edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gauntlet.certification.crown.windows import NodeWindow, extents, of_entries
from tests.certification.crown.conftest import Pixels, Residual, network_of, seeded


def deep(kernel, stride, padding, groups=1):
    """Convolutions one after the other on 9x9 images, with a scale before them."""
    layers = [Pixels(), nn.Conv2d(2, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, kernel, stride, padding, groups=groups)]
    layers += [nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 2, 1, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)]
    network = nn.Sequential(*layers)
    network(torch.zeros(1, 2, 9, 9))
    return seeded(network)


NETWORKS = {
    "strides": deep(3, 2, 1),
    "wide": deep(4, 1, 2),
    "no padding": deep(2, 2, 0),
    "unlike": deep((3, 2), (2, 1), (1, 0)),
    "groups": deep(3, 1, 1, 2),
    "residual": seeded(
        nn.Sequential(
            nn.Conv2d(2, 3, 3, 1, 1), nn.ReLU(), Residual(3, 4, 2), Residual(4, 4, 1), nn.Flatten(), nn.Linear(100, 3)
        )
    ),
    "pooled": seeded(
        nn.Sequential(
            nn.Conv2d(2, 3, 3, 1, 1), nn.ReLU(), nn.AvgPool2d(3), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(),
            nn.Linear(16, 3),
        )
    ),
}  # fmt: skip
SHAPE = (2, 9, 9)


@pytest.mark.parametrize("name", ["strides", "wide", "residual"])
def test_windows_are_used_where_they_save_something(name):
    graph = network_of(NETWORKS[name], SHAPE).exact
    sized = [extents(graph, node) for node in graph.rectified() if len(graph.nodes[node].shape) == 3]
    assert all(found[max(found)] == (1, 1) for found in sized)
    assert any(len(found) > 3 and found.get(0, (99, 99)) < (8, 8) for found in sized)


def test_a_window_beyond_the_edge_is_cut():
    window = of_entries((2, 3, 3), torch.tensor([0, 17]), 2.0)
    assert window.dense((2, 3, 3)).flatten(1).nonzero().tolist() == [[0, 0], [1, 17]]
    ones = NodeWindow(torch.ones(1, 1, 3, 3), torch.tensor([-1]), torch.tensor([2]))
    assert ones.cut(3, 3).dense((1, 3, 3))[0, 0].tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


@given(st.tuples(*[st.integers(-3, 3)] * 4), st.tuples(*[st.integers(1, 3)] * 4))
@settings(max_examples=60, deadline=None)
def test_windows_add_where_they_lie(corners, sizes):
    rng = torch.Generator().manual_seed(sum(sizes))
    one, other = (
        NodeWindow(
            torch.randn(2, 1, high, wide, generator=rng), torch.tensor([down, down + 1]), torch.tensor([right, right])
        ).cut(5, 5)
        for (down, right), (high, wide) in ((corners[:2], sizes[:2]), (corners[2:], sizes[2:]))
    )
    both = (one + other).cut(5, 5).dense((1, 5, 5))
    torch.testing.assert_close(both, one.dense((1, 5, 5)) + other.dense((1, 5, 5)))

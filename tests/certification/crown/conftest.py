"""Small networks, and what can be known about them without bounds."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from gauntlet.certification.crown.graph_tracing import trace
from gauntlet.certification.crown.margin_bounds import Effort, Network
from gauntlet.threat_model.rng import Rng

MEMORY = 4.0


class Residual(nn.Module):
    """Two convolutions with batch norm and a shortcut, added before the last ReLU."""

    def __init__(self, inside, outside, stride):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.conv2, self.norm2 = nn.Conv2d(outside, outside, 3, 1, 1), nn.BatchNorm2d(outside)
        self.shortcut = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1, stride)

    def forward(self, x):
        inner = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return nn.functional.relu(inner + self.shortcut(x), inplace=True)


class Pixels(nn.Module):
    def forward(self, x):
        return (x - torch.tensor([0.3, 0.5]).view(-1, 1, 1)) / 0.25


class Means(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def seeded(network, seed=0):
    """The network with weights, and statistics of batch norms, drawn from a generator of its own."""
    rng = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        for name, value in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
            if value.is_floating_point():
                drawn = (
                    torch.randn(value.shape, generator=rng) / max(1, value[0].numel() if value.dim() > 1 else 1) ** 0.5
                )
                value.data.copy_(drawn.abs() + 0.5 if name == "running_var" else drawn)
    return network.eval().requires_grad_(False)


def dense(*sizes):
    layers = [nn.Flatten()]
    for inside, outside in pairwise(sizes):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return seeded(nn.Sequential(*layers[:-1]))


def convolutional():
    return seeded(
        nn.Sequential(
            Pixels(), nn.Conv2d(2, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1, groups=2), nn.ReLU(inplace=True),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(),
            nn.Linear(8, 3),
        )
    )  # fmt: skip


def residual():
    return seeded(
        nn.Sequential(
            Pixels(), nn.Conv2d(2, 3, 3, 1, 1), nn.BatchNorm2d(3), nn.ReLU(), Residual(3, 4, 2), Residual(4, 4, 1),
            Means(), nn.Linear(4, 3),
        )
    )  # fmt: skip


NETWORKS = {
    "dense": (dense(8, 6, 6, 3), (2, 2, 2)),
    "convolutional": (convolutional(), (2, 8, 8)),
    "residual": (residual(), (2, 6, 6)),
}


@pytest.fixture(params=list(NETWORKS))
def network(request):
    """A network and the shape of its images."""
    return NETWORKS[request.param]


def graph_of(module, shape):
    return trace(module, (module,), shape)


def network_of(module, shape):
    return Network.of(graph_of(module, shape))


def effort(method, steps=10, inner_steps=0):
    return Effort(method, steps, inner_steps, MEMORY)


def images(count, shape, seed=1):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def margins(scores, y):
    """score[y] - the others in order, [B, K - 1]."""
    own = scores.gather(1, y[:, None])
    return torch.stack(
        [own[i] - torch.cat([row[:c], row[c + 1 :]]) for i, (row, c) in enumerate(zip(scores, y, strict=True))]
    )


def attacked(module, x, y, threat, starts=3, steps=10):
    """Images on the way of margin PGD on a network, from random starts."""
    for start in range(starts):
        z = threat.random(x, Rng(start, torch.arange(len(x)), "starts"))
        for _ in range(steps):
            z.requires_grad_()
            (slope,) = torch.autograd.grad(margins(module(z), y).amin(1).sum(), z)
            z = threat.project(z.detach() - 0.3 * threat.budget(x) * slope.sign(), x)
            yield z

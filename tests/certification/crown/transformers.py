"""Small vision transformers."""

import torch
from torch import nn

from tests.certification.crown.conftest import Pixels, seeded

SHAPE, CLASSES = (2, 4, 4), 3


class Attention(nn.Module):
    """Heads of scaled dot products, by matrix products or by the function of torch."""

    def __init__(self, width, heads, whole=False):
        super().__init__()
        self.heads, self.whole = heads, whole
        self.three, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        count, tokens, width = x.shape
        q, k, v = self.three(x).reshape(count, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.whole:
            z = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            shares = (q @ k.transpose(-2, -1) * (width / self.heads) ** -0.5).softmax(-1)
            z = torch.matmul(shares, v)
        return self.out(z.transpose(1, 2).reshape(count, tokens, width))


class TokenNorm(nn.Module):
    """Batch norm of the features of tokens."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, width, heads, norm, bend, whole):
        super().__init__()
        self.norm1, self.attention = norm(width), Attention(width, heads, whole)
        self.norm2, self.inner, self.outer, self.bend = norm(width), nn.Linear(width, 8), nn.Linear(8, width), bend()

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.outer(self.bend(self.inner(self.norm2(x))))


class Transformer(nn.Module):
    """Patches of 2x2, a class token, positions, blocks, and a head on the class token or on the mean of all."""

    def __init__(self, width=6, heads=2, depth=1, norm=TokenNorm, bend=nn.ReLU, whole=False, pooled=False):
        super().__init__()
        self.pixels, self.patches = Pixels(), nn.Conv2d(2, width, 2, 2)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, 5, width))
        self.blocks = nn.Sequential(*(Block(width, heads, norm, bend, whole) for _ in range(depth)))
        self.pooled, self.head = pooled, nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.patches(self.pixels(x)).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.places
        x = self.blocks(x)
        return self.head(x.mean(1) if self.pooled else x[:, 0])


def transformer(seed=0, scale=1.0, **options):
    """A transformer with weights of its own; scale: of those of queries and keys."""
    made = seeded(Transformer(**options), seed)
    for layer in made.modules():
        if isinstance(layer, Attention):
            layer.three.weight.mul_(scale)
    return made

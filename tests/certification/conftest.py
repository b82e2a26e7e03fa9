"""Classifiers whose shares of votes are known in closed form."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from gauntlet.certification.certifiable import Smoothed
from gauntlet.certification.noise import Gaussian
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim


class HalfSpace(nn.Module):
    """Class 1 where w . x > b, else class 0, for images [B, 1, 1, d]."""

    def __init__(self, w, b=0.0):
        super().__init__()
        self.w, self.b = torch.as_tensor(w, dtype=torch.float32), b

    def forward(self, x):
        side = x.flatten(1) @ self.w - self.b
        return torch.stack([-side, side], 1)


@dataclass(frozen=True)
class Coins(Smoothed):
    """Image number i gives class 1 with probability shares[i], and class 0 otherwise."""

    network: nn.Module | None = None
    noise: Gaussian = field(default_factory=lambda: Gaussian(1.0))
    shares: np.ndarray | None = None

    def votes(self, x, rng, draw):
        unit = rng.uniform((), draw=draw, dtype=torch.float64)
        return (unit < torch.from_numpy(self.shares)[rng.ids]).long()[:, None]


def victim_of(mechanism, classes=2):
    """A victim that says how many classes there are and what certifies it."""
    return Victim(lambda x, rng: torch.zeros(len(x), classes), (), randomized=True, mechanism=mechanism)


def certify(certifier, victim, x, work, seed=0, eps=1.0):
    threat = Threat("l2", eps)
    certifier.check(victim, threat)
    return certifier(victim, x, None, threat=threat, rng=Rng(seed, torch.arange(len(x)), "certificate"), work=work)


@pytest.fixture
def line():
    """Smoothed half-space in 4 dimensions with noise 0.25, and points at distance 0.3 from its boundary."""
    w = torch.tensor([3.0, 0.0, 4.0, 0.0])
    x = (w / 5 * 0.3).reshape(1, 1, 1, 4)
    return victim_of(Smoothed(HalfSpace(w), Gaussian(0.25))), x

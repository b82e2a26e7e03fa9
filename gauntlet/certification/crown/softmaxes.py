"""Softmax over the last axis: rounding, intervals, and planes that hold it on a box.

The planes follow Wei et al. 2023 (arXiv 2303.01713): 1 / (1 + sum exp) with chords of the exponentials is convex and
lies below, a chord of the exponential of log-softmax is concave and lies above; both are replaced by their tangent
planes at the middle of the box.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import HALF_ULP, SLACK, TINY
from gauntlet.certification.crown.joint import Joint, Link, Planes

PAD = 1e-12
"""Covers what float64 rounds in exponentials, logarithms and planes."""

ROOM = 16
"""Roundings of exponential, product and quotient, each within two last digits."""


@dataclass(frozen=True)
class Softmax(Joint):
    """exp(s_i) / sum_j exp(s_j)."""

    name = "softmax"

    def at(self, *inputs: Tensor) -> Tensor:
        return inputs[0].softmax(-1)

    def interval(self, low: list[Tensor], high: list[Tensor]) -> tuple[Tensor, Tensor]:
        least, most = _logarithms(low[0], high[0])
        return (least.exp() * (1 - PAD)).clamp_min(0), (most.exp() * (1 + PAD)).clamp_max(1)

    def rounding(self, low: list[Tensor], high: list[Tensor]) -> Tensor:
        """The largest score is subtracted first, which leaves a rounding of the size of the range of scores."""
        ((one,), (other,)) = low, high
        span = other.amax(-1, keepdim=True) - one.amin(-1, keepdim=True)
        terms = 2 * (span + one.shape[-1] + ROOM) * HALF_ULP
        share = self.interval(low, high)[1]
        near = SLACK * terms / (1 - terms).clamp_min(0.5) * share
        return torch.where(terms < 0.5, near, torch.ones_like(share)) + TINY

    def planes(self, low: list[Tensor], high: list[Tensor]) -> Planes:
        ((one,), (other,)) = low, high
        middle = (one + other) / 2
        least, most = _logarithms(one, other)
        eye = torch.eye(one.shape[-1], dtype=one.dtype, device=one.device)
        pad = PAD * (1 + one.abs().maximum(other.abs()).amax(-1, keepdim=True))
        # Above: least + k (log p - log least), with log p concave.
        share = middle.softmax(-1)
        chord = least.exp() * _slope(most - least)
        upper = chord[..., None] * (eye - share[..., None, :])
        ceiling = least.exp() + chord * (middle.log_softmax(-1) - least) - _dot(upper, middle) + pad
        # Below: 1 / (sum of chords of exp(s_j - s_i)).
        start = one[..., None, :] - other[..., :, None]  # [i, j]
        width = (other - one)[..., None, :] + (other - one)[..., :, None]
        start, width = (torch.where(eye > 0, torch.zeros_like(start), each) for each in (start, width))
        rise = start.exp() * _slope(width)
        total = (start.exp() + rise * width / 2).sum(-1)
        rise = rise * (1 - eye) / total.square()[..., None]
        lower = rise.sum(-1)[..., None] * eye - rise
        floor = 1 / total - _dot(lower, middle) - pad
        lower, floor = _finite(lower, floor, 0.0)
        upper, ceiling = _finite(upper, ceiling, 1.0)
        terms = one.shape[-1] + 2
        links = [(Link(weight, ("j", "ij", "i"), terms),) for weight in (lower, upper)]
        return Planes(links[0], links[1], floor, ceiling)


def _finite(weight: Tensor, constant: Tensor, other: float) -> tuple[Tensor, Tensor]:
    """Return planes, those that overflowed replaced by a constant."""
    fine = weight.isfinite().all(-1) & constant.isfinite()
    return torch.where(fine[..., None], weight, 0.0), torch.where(fine, constant, other)


def _logarithms(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest logarithms of softmax on a box."""
    own = torch.eye(low.shape[-1], dtype=torch.bool, device=low.device)
    least = torch.where(own, low[..., :, None], high[..., None, :])
    most = torch.where(own, high[..., :, None], low[..., None, :])
    return low - least.logsumexp(-1), high - most.logsumexp(-1)


def _slope(width: Tensor) -> Tensor:
    """Return the slope of the chord of exp over [0, width]."""
    return torch.where(width > 0, torch.expm1(width) / width.clamp_min(1e-300), torch.ones_like(width))


def _dot(weight: Tensor, z: Tensor) -> Tensor:
    return (weight * z[..., None, :]).sum(-1)

"""Checks of the input gradient: whether it belongs to the forward, and whether it leads anywhere.

Each is a number and a threshold, which lies between what public networks give and what models made to be caught give:
benchmarks/flags.md.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn

from gauntlet.attacks.losses import ce, dlr, margin, pm
from gauntlet.sanity_checks.flag import Flag
from gauntlet.sanity_checks.local_linearity import Slope
from gauntlet.sanity_checks.probe import Probe

MISMATCH = 0.25
SHATTERED = 0.5
RESTLESS = 0.25


def mismatched(probe: Probe) -> Flag | None:
    """The gradient is that of the forward."""
    error = mismatch(probe.slope)
    if error <= MISMATCH:
        return None
    what = f"directional derivatives by autograd and by differences are {error:.0%} apart"
    return Flag("gradient-mismatch", f"{what}: a custom backward or a step function, which wants a stand-in")


def shattered(probe: Probe) -> Flag | None:
    """Gradients at two random points of the ball point in related directions."""
    share = unrelated(probe.slope)
    if share <= SHATTERED:
        return None
    return Flag("shattered-gradients", f"at two random starts the gradients of {share:.0%} of the images are unrelated")


def restless(probe: Probe) -> Flag | None:
    """Small steps along the gradient raise the loss."""
    share = falls(probe.slope)
    if share <= RESTLESS:
        return None
    return Flag("restless-loss", f"{share:.0%} of small steps along the gradient lower the loss that they should raise")


def dead_start(probe: Probe) -> Flag | None:
    """No loss has a zero gradient at a random start, unless the scores there are constant."""
    dead = {name: count for name, count in dead_starts(probe.slope).items() if count}
    if not dead:
        return None
    name = max(dead, key=lambda each: dead[each])
    what = f"{dead[name]} of {len(probe.y)} images have a zero {name} gradient at a random start"
    return Flag("dead-start", f"{what}, though their scores change nearby")


def mismatch(slope: Slope) -> float:
    """|a - b| / (|a| + |b|) for the derivatives of all images by autograd and by differences; the larger of that along
    the gradient and along a random direction."""
    return max(slope.mismatch(direction) for direction in slope.directions())


def unrelated(slope: Slope) -> float:
    """Share of images whose gradients at two points have a cosine below two standard deviations of random vectors."""
    one, other = (gradient.flatten(1).double() for _, gradient in slope.starts)
    there = ~(_zero(one) | _zero(other))
    if not there.any():
        return 0.0
    cosine = nn.functional.cosine_similarity(one[there], other[there])
    return float((cosine < 2 / math.sqrt(one.shape[1])).double().mean())


def falls(slope: Slope) -> float:
    """Share of steps along the gradient, each a tenth of the budget, after which the loss is lower."""
    values = slope.climb()
    return float((values[1:] < values[:-1] - 1e-6 * values.abs().amax(0)).double().mean())


def dead_starts(slope: Slope) -> dict[str, int]:
    """Loss -> images whose gradient is zero at the first start, though the scores at the second are others."""
    (here, gradient), (there, _) = slope.starts
    moves = (here - there).abs().amax(1) > 0
    losses = {"ce": ce, "margin": margin, "pm": pm} | ({"dlr": dlr} if here.shape[1] > 2 else {})
    found = {}
    for name, loss in losses.items():
        if name != "margin":
            gradient = slope.pull(slope.points[0], partial(loss, y=slope.y))[1]
        found[name] = int((moves & _zero(gradient)).sum())
    return found


def _zero(gradient: Tensor) -> Tensor:
    return torch.eq(gradient.flatten(1).abs().amax(1), 0)

"""Checks of the input gradient: whether it belongs to the forward, and whether it leads anywhere.

Each is a number and a threshold, which lies between what public networks give and what models made to be caught give:
benchmarks/flags.md.
"""

import math

import torch
from torch import Tensor, nn

from gauntlet.attacks.losses import ce, dlr, margin, pm
from gauntlet.sanity_checks.flag import Flag
from gauntlet.sanity_checks.local_linearity import TINY, LocalLinearity
from gauntlet.sanity_checks.probe import Probe
from gauntlet.threat_model.passes import RowLoss

MISMATCH = 0.25
FINER = 0.1
SHATTERED = 0.5
NON_MONOTONE = 0.25


def mismatched(probe: Probe) -> Flag | None:
    """Check that the gradient is that of the forward."""
    error = mismatch(probe.linearity)
    if error <= MISMATCH:
        return None
    what = f"directional derivatives by autograd and by differences are {error:.0%} apart"
    return Flag("gradient-mismatch", f"{what}: a custom backward or a step function; give the defense a BPDA head")


def shattered(probe: Probe) -> Flag | None:
    """Check that gradients at two random points of the ball point in related directions."""
    share = unrelated(probe.linearity)
    if share <= SHATTERED:
        return None
    return Flag("shattered-gradients", f"at two random starts the gradients of {share:.0%} of the images are unrelated")


def non_monotone(probe: Probe) -> Flag | None:
    """Check that small steps along the gradient raise the loss."""
    share = share_of_falls(probe.linearity)
    if share <= NON_MONOTONE:
        return None
    return Flag(
        "non-monotone-loss", f"{share:.0%} of small steps along the gradient lower the loss that they should raise"
    )


def dead_start(probe: Probe) -> Flag | None:
    """Check that no loss has a zero gradient at a random start, unless the scores there are constant."""
    dead = {name: count for name, count in dead_starts(probe.linearity).items() if count}
    if not dead:
        return None
    name = max(dead, key=lambda each: dead[each])
    what = f"{dead[name]} of {len(probe.y)} images have a zero {name} gradient at a random start"
    return Flag("dead-start", f"{what}, though their scores change nearby")


def mismatch(linearity: LocalLinearity) -> float:
    """Return |a - b| / (|a| + |b|) for the derivatives of all images by autograd and by differences.

    It is the larger of that along the gradient and along a random direction. Where it is large, differences of `FINER`
    the length are asked, too, and the smaller counts: a function that curves within a tenth of the budget, as a network
    of ImageNet does, is linear nearer by; a wrong backward or a step function is not.
    """
    directions = list(linearity.directions())
    apart = [_number(linearity.mismatch(direction), 0.0) for direction in directions]
    if max(apart) > MISMATCH:
        apart = [min(a, _number(linearity.mismatch(d, FINER), a)) for a, d in zip(apart, directions, strict=True)]
    return max(apart)


def _number(value: float, other: float) -> float:
    return other if math.isnan(value) else value


def unrelated(linearity: LocalLinearity) -> float:
    """Return the share of images whose gradients at two points are no more alike than random vectors."""
    one, other = (gradient.flatten(1).double() for _, gradient in linearity.starts)
    there = ~(_zero(one) | _zero(other))
    if not there.any():
        return 0.0
    one, other = (nn.functional.normalize(gradient[there], eps=TINY) for gradient in (one, other))
    cosine = (one * other).sum(1)
    return float((cosine < 2 / math.sqrt(one.shape[1])).double().mean())


def share_of_falls(linearity: LocalLinearity) -> float:
    """Return the share of steps along the gradient, each a tenth of the budget, after which the loss is lower."""
    values = linearity.climb()
    return float((values[1:] < values[:-1] - 1e-6 * values.abs().amax(0)).double().mean())


def dead_starts(linearity: LocalLinearity) -> dict[str, int]:
    """Return loss -> images whose gradient is zero at the first start, though the scores at the second are others."""
    (here, gradient), (there, _) = linearity.starts
    moves = (here - there).abs().amax(1) > 0
    losses = {"ce": ce, "margin": margin, "pm": pm} | ({"dlr": dlr} if here.shape[1] > 2 else {})
    found = {}
    for name, loss in losses.items():
        if name != "margin":
            gradient = linearity.pull(linearity.points[0], RowLoss(loss, linearity.y))[1]
        found[name] = int((moves & _zero(gradient)).sum())
    return found


def _zero(gradient: Tensor) -> Tensor:
    return torch.eq(gradient.flatten(1).abs().amax(1), 0)

"""The loop that the minimum-norm attacks share: step, and keep the nearest point that fools the victim.

In a run with a finite eps a sample leaves as soon as a candidate within eps fools the victim. Where the threat is
unbounded every sample makes all steps, and the answer is its nearest candidate.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from gauntlet.attacks.losses import CLEAR, Cotangent, margins
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import MOST_ROUNDS, Guess, HostValues, RowLoss, doubtful, positions
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

REFINE = 10
"""Forward passes at the end that move each adversarial example towards its image."""


class NearestExamples(NamedTuple):
    """The nearest adversarial example of each sample so far."""

    z: Tensor  # [B, C, H, W]; the image itself where nothing was found
    distance: Tensor  # float64 [B]; infinite where nothing was found

    @classmethod
    def start(cls, x: Tensor) -> "NearestExamples":
        return cls(x.clone(), torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device))

    def note(self, index: Tensor, z: Tensor, distance: Tensor, broken: Tensor) -> None:
        """Enter candidates z of the samples at `index` (positions), in place."""
        near = self.distance[index]
        better = broken & (distance < near)
        self.z[index] = torch.where(wide(better, z), z, self.z[index])
        self.distance[index] = torch.where(better, distance, near)

    def within(self, threat: Threat, x: Tensor) -> Tensor:
        """Return the legal adversarial examples, and the images of the other samples."""
        return torch.where(wide(threat.contains(self.z, x), x), self.z, x)


class StepResult(NamedTuple):
    """The head's answers at the points of a step."""

    number: int  # of the step
    share: float  # of the steps that is behind, in [0, 1)
    rounds: int | None  # of what is found in rounds, without a read; None: as many as it takes
    x: Tensor
    gap: Tensor  # [b], half of true logit minus best other one: the value that falls along the gradient of `margin`
    gradient: Tensor  # without what pushes out of the box
    broken: Tensor  # bool [b]
    distance: Tensor  # of the point, float64 [b]
    best: Tensor  # distance of the nearest adversarial example, float64 [b]
    threat: Threat
    rng: Rng

    @property
    def cosine(self) -> float:
        """Return a factor that falls from one to zero over the steps."""
        return (1 + math.cos(math.pi * self.share)) / 2

    def projected(self, ball: Threat, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the point of a ball near z, and how many rounds that takes, [b]; None: no more than were made."""
        return (ball.project(z, self.x), None) if self.rounds is None else ball.projected(z, self.x, self.rounds)


class MinimumNormState(Protocol):
    """The state of each sample between two steps; every tensor is [b, ...]."""

    @property
    def z(self) -> Tensor: ...

    def select(self, index: Tensor) -> Self: ...


S = TypeVar("S", bound=MinimumNormState)


def minimize_norm(
    head: CountedHead,
    x: Tensor,
    y: Tensor,
    state: S,
    advance: Callable[[S, StepResult], tuple[S, Tensor | None]],
    steps: int,
    *,
    loss: Cotangent,
    threat: Threat,
    rng: Rng,
) -> Tensor:
    """Step along `steps` gradients, at one forward and one backward each, then refine; the legal adversarial examples,
    else the images.

    Args:
        x, y: images [B, C, H, W] and labels int64 [B].
        state: at the start.
        advance: the state with the next point, which lies in the box, and how many rounds that takes, [b]; None: no
            more than were made.
        loss: whose gradient the steps follow.
    """
    best, index, images = NearestExamples.start(x), torch.arange(len(x), device=x.device), x
    whole, labels, draws, rounds = threat, y, rng, Guess(8, MOST_ROUNDS, spare=0.34)
    for number in range(steps if len(x) else 0):
        draw = rng.stream(number)
        logits, gradient, sums = head.pulled(state.z, RowLoss(loss, y), draw)
        distance, ends = threat.distance(state.z, x), arrived(state.z, x, threat)
        nearer = distance < best.distance[index]
        broken, found, known = _check_candidates(head, state.z, logits, y, nearer, draw, sums, ends)
        best.note(index, state.z, distance, found)
        result = StepResult(
            number, number / steps, rounds.value, x, margins(logits, y) / 2, free(gradient, state.z, threat), broken,
            distance, best.distance[index], threat, rng,
        )  # fmt: skip
        # The next points come before the read, which says of them, too, whether they are right.
        ahead, taken = advance(state, result)
        columns = [*(() if known else (sums, found & ends)), *(() if taken is None else (taken,))]
        sums_there, leave, *taken_there = [*known, *(head.passes.read(*columns) if columns else ())]
        doubt, enough = doubtful(sums_there).any(), all(rounds.enough(each) for each in taken_there)
        if doubt:
            result = result._replace(gradient=free(head.settled(gradient, draw), state.z, threat))
        state = ahead if enough and not doubt else advance(state, result._replace(rounds=None))[0]
        if leave.any():
            (stay,) = positions(x.device, (~leave).nonzero()[0])
            if not len(stay):
                break
            state, x, y, index = state.select(stay), x[stay], y[stay], index[stay]
            threat, rng = threat.select(stay), rng.select(stay)
    refine(head, images, labels, best, threat=whole, rng=draws.stream("refine"))
    return best.within(whole, images)


def refine(head: CountedHead, x: Tensor, y: Tensor, best: NearestExamples, *, threat: Threat, rng: Rng) -> None:
    """Move the adversarial examples towards their images, in place, as long as they fool the victim. Does nothing for
    l0.

    A step that holds is doubled until one fails; from then on it is halved. What is legal under a finite eps stays.
    """
    if threat.norm == "l0":
        return
    open_ = best.distance.isfinite() & ~arrived(best.z, x, threat)
    index = open_.nonzero().squeeze(1)
    if not len(index):
        return
    x, y, far, threat, rng = x[index], y[index], best.z[index], threat.select(index), rng.select(index)
    share = torch.ones(len(index), dtype=x.dtype, device=x.device)
    step, failed = share / 16, torch.zeros_like(share, dtype=torch.bool)
    for number in range(REFINE):
        draw, ahead = rng.stream(number), (share - step).clamp_min(0)
        z = (x + wide(ahead, x) * (far - x)).clamp(threat.low, threat.high)
        broken = clearly_broken(head, z, head.scores(z, draw), y, draw, plain=True)
        best.note(index, z, threat.distance(z, x), broken)
        failed = failed | ~broken
        share = torch.where(broken, ahead, share)
        step = torch.where(failed, step / 2, step * 2)


def arrived(z: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Return whether an adversarial example ends the steps of its sample, bool [B]: it lies within a finite eps, or is
    the image itself.
    """
    return (z == x).flatten(1).all(1) if threat.unbounded else threat.contains(z, x)


def _check_candidates(
    head: CountedHead, z: Tensor, logits: Tensor, y: Tensor, nearer: Tensor, rng: Rng, sums: Tensor, ends: Tensor
) -> tuple[Tensor, Tensor, tuple[HostValues, ...]]:
    """Decide by which the steps go on, and which of the points are adversarial and nearer than those before, both bool
    [b].

    The logits of an exact head are good enough to step by. So are those of a fused copy, which differ by rounding, to
    enter points by, since these must be clearly wrong: then nothing is read. In reduced precision, or where the defense
    is random, the deployed forward is asked about what would be entered. Then the sums, and which of the points found
    are ends, are returned on the host, too.
    """
    exact, broken = head.head.exact, clear(logits, y)
    found, margin = broken & nearer, margins(logits, y)
    if exact and head.dtype is None and head.trials == 1:
        return broken, found, ()
    margin = margin.masked_fill(~found, math.inf) if exact else margin
    fallen, _, sums_there, leave = head.fallen(z, y, rng, margin, sums, nearer & ends)
    fell = torch.from_numpy(fallen).to(z.device, non_blocking=True)
    return broken if exact else fell, fell & nearer, (sums_there, fallen & leave)


def clearly_broken(head: CountedHead, z: Tensor, logits: Tensor, y: Tensor, rng: Rng, plain: bool = False) -> Tensor:
    """Return `head.broken`, where an exact head must in addition be wrong by more than rounding."""
    broken = head.broken(z, logits, y, rng, plain)
    if not head.head.exact:
        return broken
    return broken & clear(logits, y)


def clear(logits: Tensor, y: Tensor) -> Tensor:
    """Return whether the logits [B, K] are wrong by more than rounding, bool [B].

    Logits may have a common offset, which changes no decision. Their size is therefore the largest of them or their
    spread, whichever is less; the spread is at most twice the largest, so an offset moves the threshold by a factor of
    two at most. Where the offset is so large that its last two digits are more than that, these count.
    """
    size, spread = logits.abs().amax(1), logits.amax(1) - logits.amin(1)
    rounding = 2 * torch.finfo(logits.dtype).eps * size
    return margins(logits, y) <= -(CLEAR * size.minimum(spread)).maximum(rounding)


def free(gradient: Tensor, z: Tensor, threat: Threat) -> Tensor:
    """Return the gradient without the entries that push a pixel through the wall of the box at which it stands."""
    blocked = ((z <= threat.low) & (gradient < 0)) | ((z >= threat.high) & (gradient > 0))
    return gradient.masked_fill(blocked, 0.0)


def farthest(x: Tensor, threat: Threat) -> Tensor:
    """Distance from each image to the corner of the box that is farthest from it, [B]."""
    corner = torch.where(x - threat.low > threat.high - x, threat.low, threat.high)
    return threat.distance(corner, x).to(x.dtype)


def dual_norm(gradient: Tensor, norm: str) -> Tensor:
    """Return the dual norm of the gradient: what a step of length one in `norm` gains at most, [B]; l0: one entry."""
    flat = gradient.flatten(1)
    order = {"linf": 1.0, "l2": 2.0, "l1": math.inf, "l0": math.inf}[norm]
    length: Tensor = torch.linalg.vector_norm(flat, order, dim=1)
    return length.clamp_min(torch.finfo(gradient.dtype).tiny)


def unit(gradient: Tensor) -> Tensor:
    """Return the gradient at Euclidean length one; zero where it is zero."""
    return _EUCLID.steepest(gradient)


def wide(values: Tensor, like: Tensor) -> Tensor:
    """Reshape values [B] to a shape that broadcasts against images."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


_EUCLID = Threat("l2", 1.0)

"""How much each sample counts, and how far it may be attacked."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice, knob

Memory = dict[str, Tensor]
"""What a weighting carries from step to step; it is saved with the state of a training."""

TERMS = ("clean", "attacked")
"""Parts of the loss of an objective that has `terms`."""


class Progress(NamedTuple):
    """Shares of the training that are done, in [0, 1): now, and at the last end of an epoch."""

    now: float
    epoch: float


@dataclass(frozen=True)
class BatchOutcome:
    """What is known of a batch when its samples are weighted: without gradient, and of the whole batch, also where
    several processes share it.

    Args:
        losses: float [B].
        y: labels, int64 [B].
        progress: of the training.
        logits: on the examples, in the mode of training, [B, K]; None unless the weighting needs them.
        right_steps: share of the steps of the attack before which a sample was still classified right, float [B] in
            [0, 1]; None unless the weighting needs it.
    """

    losses: Tensor
    y: Tensor
    progress: Progress
    logits: Tensor | None = None
    right_steps: Tensor | None = None


class Weighting(Protocol):
    """Weights of the samples of a batch. A subclass says what it needs, and overrides what differs.

    Attributes:
        needs: of "logits" and "right_steps", what must be observed.
        term: the part of the loss that is weighted, "clean" or "attacked", of an objective that has `terms`; None: all.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    term: str | None = None

    def factors(self, y: Tensor, progress: Progress, memory: Memory) -> Tensor | None:
        """Return the multiples of the budget of the attack [B], or None: all ones. y: int64 [B]."""
        return None

    def weights(self, batch: BatchOutcome, memory: Memory) -> Tensor:
        """Return the multiples of the losses [B], >= 0, without gradient; taken anew under perturbed weights."""
        return torch.ones_like(batch.losses)

    def remembered(self, batch: BatchOutcome, memory: Memory) -> Memory:
        """Return the memory after a step; batch: as it was weighted last. Called once a step, after all weights."""
        return memory

    def columns(self, memory: Memory) -> dict[str, float]:
        """Return numbers for the line of an epoch, by name."""
        return {}


@dataclass(frozen=True)
class SoftmaxWeighting(Knobs, Weighting, key="recipe.weighting"):
    """exp(loss / temperature), scaled to a mean of one: the worst case within a divergence from equal weights.

    The closed form of max over w of sum w_i l_i - temperature KL(w || uniform) (distributionally robust optimization).
    Over a batch it is a biased one: what is divided by is the mean of the batch. With rate < 1 it is a moving average
    u <- (1 - rate) u + rate mean exp(loss / temperature) over the batches, as stochastic compositional gradients need
    it (DONE, without its second-order part), and the weights have a mean of one over the training only.

    Args:
        temperature: > 0; the larger, the more equal.
        start: share of the training before which all weights are one, in [0, 1).
        rate: weight of the batch in the average, in (0, 1]; 1: the batch alone.
        most: largest weight, > 1, for data with wrong labels; null: none.

    Raises:
        UserError: a value outside its range.
    """

    temperature: float = knob(5.0, above=0)
    start: float = knob(0.0, least=0, below=1)
    rate: float = knob(1.0, above=0, most=1)
    most: float | None = knob(None, above=1, whole=False, optional=True)

    def weights(self, batch: BatchOutcome, memory: Memory) -> Tensor:
        if batch.progress.now < self.start:
            return torch.ones_like(batch.losses)
        scaled = batch.losses / self.temperature
        found = scaled.softmax(0) * len(scaled) if self.rate == 1 else (scaled - self._level(scaled, memory)).exp()
        return found if self.most is None else found.clamp_max(self.most)

    def remembered(self, batch: BatchOutcome, memory: Memory) -> Memory:
        if self.rate == 1 or batch.progress.now < self.start:
            return memory
        return {"level": self._level(batch.losses / self.temperature, memory)}

    def _level(self, scaled: Tensor, memory: Memory) -> Tensor:
        """Return log u with the batch in it: as a logarithm it never overflows."""
        level = scaled.logsumexp(0) - math.log(len(scaled))
        if "level" not in memory:
            return level
        return torch.logaddexp(memory["level"] + math.log1p(-self.rate), level + math.log(self.rate))


@dataclass(frozen=True)
class GAIRAT(Knobs, Weighting, key="recipe.weighting"):
    """(1 + tanh(shift + 5 (1 - 2 kappa))) / 2, scaled to a mean of one in the batch (Zhang et al. 2021, arXiv
    2010.01736).

    kappa is the share of the steps of the inner attack before which the sample was still classified right: samples that
    fall at once are near the boundary and count most. The weights follow the attack of the training, and protect
    against that one: others find samples that count for nothing (see LRAT, arXiv 2106.15776).

    Args:
        shift: the authors' Lambda; the larger, the more equal.
        start: share of the training before which all weights are one, in [0, 1).

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[tuple[str, ...]] = ("right_steps",)

    shift: float = knob(-1.0)
    start: float = knob(0.5, least=0, below=1)

    def weights(self, batch: BatchOutcome, memory: Memory) -> Tensor:
        if batch.progress.now < self.start:
            return torch.ones_like(batch.losses)
        assert batch.right_steps is not None
        # (1 + tanh(a)) / 2 is sigmoid(2 a), which loses no digits where it is small.
        return mean_one(torch.sigmoid(2 * (self.shift + 5 * (1 - 2 * batch.right_steps))))


@dataclass(frozen=True)
class MAIL(Knobs, Weighting, key="recipe.weighting"):
    """scale sigmoid(slope (PM + bias)), PM = max_{k != y} p_k - p_y on the example (Wang et al. 2021, arXiv
    2106.07904).

    The scale is a constant in the released code, and the weights are not brought to a mean of one. There the weights
    multiply the whole loss of adversarial training, the divergence of TRADES (term=attacked, bias=0, slope=2).

    Args:
        slope: >= 0.
        bias: added to the margin.
        scale: > 0.
        start: share of the training before which all weights are one, in [0, 1).
        term: the part of the loss that is weighted, clean or attacked; null: all of it.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[tuple[str, ...]] = ("logits",)

    slope: float = knob(10.0, least=0)
    bias: float = knob(-0.5)
    scale: float = knob(3.0, above=0)
    start: float = knob(0.625, least=0, below=1)
    term: str | None = choice(None, TERMS, optional=True)

    def weights(self, batch: BatchOutcome, memory: Memory) -> Tensor:
        if batch.progress.now < self.start:
            return torch.ones_like(batch.losses)
        assert batch.logits is not None
        return (self.scale * vulnerability(batch.logits, batch.y, self.slope, self.bias)).to(batch.losses.dtype)


def vulnerability(logits: Tensor, y: Tensor, slope: float, bias: float) -> Tensor:
    """Return sigmoid(slope (max_{k != y} p_k - p_y + bias)) without gradient, [B]; logits: [B, K], y: int64 [B]."""
    p = logits.detach().softmax(1)
    rival = p.scatter(1, y[:, None], -1.0).amax(1)
    return torch.sigmoid(slope * (rival - p.gather(1, y[:, None]).squeeze(1) + bias))


def mean_one(weights: Tensor) -> Tensor:
    """Return the weights [B], >= 0, scaled to a mean of one. Raises UserError where their sum is not positive."""
    total = weights.sum()
    if not bool(total > 0):
        raise UserError(
            "recipe.weighting gives every sample of a batch the weight zero; choose milder settings, or begin it later"
        )
    return weights * (len(weights) / total)

"""Universal perturbations by ascent on the mean loss of training images: SPGD, and SGA, which looks ahead."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from gauntlet.attacks.losses import Cotangent, ce, scored
from gauntlet.attacks.universal.universal_perturbation import (
    Images,
    Universal,
    UniversalState,
    classes_of,
    metered,
    moved,
    shuffled,
)
from gauntlet.errors import UserError
from gauntlet.knobs import choice, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import RowLoss
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


def logit(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return minus the label's logit."""
    return torch.zeros_like(logits, dtype=torch.float32).scatter_(1, y[:, None], -1.0)


LOSSES: dict[str, Cotangent] = {"ce": ce, "logit": logit}


class LogScaledMeanGradient(NamedTuple):
    """A mean gradient, [C, H, W], as `direction` times exp(`scale`): means of tiny gradients do not underflow."""

    direction: Tensor
    scale: float = -math.inf

    def plus(self, other: "LogScaledMeanGradient") -> "LogScaledMeanGradient":
        top = max(self.scale, other.scale)
        if top == -math.inf:
            return self
        mine, theirs = math.exp(self.scale - top), math.exp(other.scale - top)
        return LogScaledMeanGradient(mine * self.direction + theirs * other.direction, top)


@dataclass(frozen=True, kw_only=True)
class SPGD(Universal):
    """Universal perturbation by stochastic projected gradient steps (Shafahi et al. 2020, arXiv 1811.11304).

    For each batch of training images one step along the steepest direction of the mean gradient, for linf and l2. The
    label of a training image is the victim's own clean prediction, so that the fooling ratio is what rises.

    Args:
        images: training images to use, >= 1, chosen by the seed; null: all of them.
        epochs: over these images, >= 1.
        batch: images per step, >= 1; the images are at least as many.
        step_size: as a multiple of eps, > 0.
        loss: "ce": cross-entropy; a sample whose own exceeds `clip` pushes no more. "logit": minus the label's logit.
        clip: beta of the clipped cross-entropy, > 0.
        labels: "predicted", or "true" for those of the data set.
        delta: the fitted perturbation.

    Raises:
        UserError: a value outside its range.
    """

    epochs: int = knob(20, least=1)
    batch: int = knob(250, least=1)
    step_size: float = knob(0.1, above=0)
    loss: str = choice("ce", LOSSES)
    clip: float = knob(9.0, above=0)
    labels: str = choice("predicted", ("predicted", "true"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images is not None:
            self.length(self.images)

    def length(self, count: int) -> int:
        if count < self.batch:
            raise UserError(
                f"attack.batch={self.batch}, but there are {count} training images; "
                f"give attack.batch={count} or less, or more images"
            )
        return self.epochs * -(-count // self.batch)

    def fit(
        self, head: CountedHead, images: Images, *, threat: Threat, rng: Rng, state: UniversalState | None = None
    ) -> Iterator[UniversalState]:
        count = len(images.ids)
        state = UniversalState.start(images) if state is None else state
        batches = self.length(count) // self.epochs
        for epoch in range(state.step // batches, self.epochs):
            order = shuffled(rng, epoch)
            for number in range(state.step - epoch * batches, batches):
                at = order[number * self.batch : (number + 1) * self.batch].sort().values
                state = self._step(head, images, at, state, threat, rng.select(at).stream(epoch))
                yield state

    def _step(
        self, head: CountedHead, images: Images, at: Tensor, state: UniversalState, threat: Threat, rng: Rng
    ) -> UniversalState:
        """Take one step on the images at these positions."""
        x, y = images.read(at)
        head, labels = metered(head, rng.ids), state.labels
        if (labels[at] < 0).any():
            known = y if self.labels == "true" else classes_of(head, x, rng.stream("labels"))
            labels = labels.index_copy(0, at, known)
        gradient = self._step_gradient(head, x, labels[at], state.delta, threat, rng).direction
        velocity = self._velocity(state.velocity, gradient)
        delta = self._moved(state.delta, velocity, threat)
        return state.paid(head)._replace(delta=delta, labels=labels, velocity=velocity, step=state.step + 1)

    def _velocity(self, before: Tensor, gradient: Tensor) -> Tensor:
        """Return the direction of the step, from that of the batch before."""
        return gradient

    def _step_gradient(
        self, head: CountedHead, x: Tensor, y: Tensor, delta: Tensor, threat: Threat, rng: Rng
    ) -> LogScaledMeanGradient:
        """Return the gradient along which the step of a batch goes."""
        return self._mean_gradient(head, x, y, delta, threat, rng.stream(0))

    def _mean_gradient(
        self, head: CountedHead, x: Tensor, y: Tensor, delta: Tensor, threat: Threat, rng: Rng
    ) -> LogScaledMeanGradient:
        """Return the gradient of the mean loss at the perturbed images with respect to the perturbation.

        The gradient of a sample is its unit cotangent pulled back, times a weight: so are confident samples, whose
        weight is the tiny probability of all other classes, as opposed to samples without a gradient. A pixel that the
        box holds back passes no gradient on.
        """
        there = x + delta
        z = there.clamp(threat.low, threat.high)
        passes = [
            head.gradient(z[piece], RowLoss(LOSSES[self.loss], y[piece]), rng.select(piece))
            for piece in head.batches(torch.arange(len(x), device=x.device))
        ]
        logits, gradient = (torch.cat(parts) for parts in zip(*passes, strict=True))
        weight = self._weight(logits, y)
        top = float(weight.max())
        if top == -math.inf:
            return LogScaledMeanGradient(torch.zeros_like(delta))
        share = (weight - top).exp().to(x.dtype).reshape(-1, 1, 1, 1)
        return LogScaledMeanGradient((share * gradient * (there == z)).mean(0), top)

    def _weight(self, logits: Tensor, y: Tensor) -> Tensor:
        """Logarithm of the size of each sample's gradient with respect to its logits, up to a constant, [B]."""
        if self.loss == "logit":
            return torch.zeros_like(logits[:, 0])
        gap = scored("ce").value(logits, y)  # logsumexp of the others minus the label's logit
        return torch.where(softplus(gap) < self.clip, logsigmoid(gap), -math.inf)

    def _moved(self, delta: Tensor, gradient: Tensor, threat: Threat) -> Tensor:
        return moved(delta, self.step_size * threat.radius * threat.steepest(gradient[None])[0], threat)


@dataclass(frozen=True, kw_only=True)
class SGA(SPGD):
    """Stochastic gradient aggregation (Liu et al., ICCV 2023, arXiv 2308.06015).

    For each batch a pre-search of small steps on random parts of it, from the present perturbation; the mean of
    their gradients then gives one step of the perturbation itself, and where the pre-search ended is forgotten.

    Args:
        images, epochs, batch, step_size, loss, clip, labels, delta: as for SPGD.
        sweeps: how often the pre-search goes over as many images as the batch has, >= 1 (K).
        inner: images of one pre-search step, drawn without replacement, >= 1.
        decay: of the momentum over batches, in [0, 1); 0 is the plain method.

    Raises:
        UserError: a value outside its range.
    """

    sweeps: int = knob(4, least=1)
    inner: int = knob(10, least=1)
    decay: float = knob(0.0, least=0, below=1)

    def _step_gradient(
        self, head: CountedHead, x: Tensor, y: Tensor, delta: Tensor, threat: Threat, rng: Rng
    ) -> LogScaledMeanGradient:
        total, ahead = LogScaledMeanGradient(torch.zeros_like(delta)), delta
        for number, size in enumerate(self._sizes(len(x))):
            draw = rng.stream(number)
            part = draw.stream("part").bits((1,)).squeeze(1).argsort(stable=True)[:size].sort().values
            gradient = self._mean_gradient(head, x[part], y[part], ahead, threat, draw.select(part))
            ahead = self._moved(ahead, gradient.direction, threat)
            total = total.plus(gradient)
        return total

    def _velocity(self, before: Tensor, gradient: Tensor) -> Tensor:
        return self.decay * before + gradient / gradient.abs().sum().clamp_min(torch.finfo(gradient.dtype).tiny)

    def _sizes(self, count: int) -> list[int]:
        """Return the number of images of each pre-search step; they sum to sweeps times count."""
        size = min(self.inner, count)
        whole, rest = divmod(self.sweeps * count, size)
        return [size] * whole + [rest] * (rest > 0)

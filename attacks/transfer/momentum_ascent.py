"""Iterative ascent whose gradient is put together from pieces: the engine of the transfer attacks."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gauntlet.attacks.log_scaled_gradient import LOG_SCALED_LOSSES, LogScaledGradient, log_scaled_loss, weighted_sum
from gauntlet.attacks.losses import margins, ranking
from gauntlet.attacks.projected_ascent import BestCandidates
from gauntlet.attacks.transfer.adaea import AdaEA
from gauntlet.attacks.transfer.admix import Admix
from gauntlet.attacks.transfer.context import AttackContext, GradientResult, Members
from gauntlet.attacks.transfer.ensemble_gradient import Combination, Ensemble, alone
from gauntlet.attacks.transfer.gradient_smoothing import GradientSmoothing, Kernel
from gauntlet.attacks.transfer.input_transforms import Piece, TransformGrid
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import HostMask, positions
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class Transfer(Knobs, key="attack"):
    """Momentum ascent (MI, Dong et al. 2018, arXiv 1710.06081) with pieces that make its adversarial examples hold on
    other networks.

    Each step: gradients of the loss, through every view, averaged with their true lengths; blurred by the kernel;
    scaled and added to the momentum; one step in its steepest direction. For linf, l2 and l1. The last point is the
    candidate, save that a sample leaves as soon as its point fools the victim.

    Args:
        steps: >= 1.
        step_size: as a multiple of eps, > 0.
        decay: of the momentum, >= 0; 0: none.
        nesterov: take the gradient one step of the momentum ahead (NI, arXiv 1908.06281).
        loss: ce or margin.
        random_start: begin at a random point of the ball, else at the image.
        noise: standard deviation of Gaussian noise on the start, in pixel values, >= 0.
        targets: 0 for untargeted; n: a run to each of the n best other classes of the clean image in turn. Where none
            fools the victim, as on surrogates, the end point of least margin is the candidate.
        views: name -> view of the image, each applied to what the one before shows; a gradient for every combination of
            their copies.
        smoothing: how gradients around the point are used; null: only that at the point.
        kernel: blurs the gradient; null: as it is.
        ensemble: how several surrogates become one gradient; null: one network.

    Raises:
        UserError: a value outside its range; an ensemble of one; several networks without an ensemble; targets with an
            ensemble that has no targeted form.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    steps: int = knob(10, least=1)
    step_size: float = knob(0.1, above=0)
    decay: float = knob(1.0, least=0)
    nesterov: bool = False
    loss: str = choice("ce", LOG_SCALED_LOSSES)
    random_start: bool = False
    noise: float = knob(0.0, least=0)
    targets: int = knob(0, least=0)
    views: dict[str, Piece] = field(default_factory=dict)
    smoothing: GradientSmoothing | None = None
    kernel: Kernel | None = None
    ensemble: Combination | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.ensemble, Ensemble) and self.ensemble.kind == "probabilities" and self.loss != "ce":
            raise UserError(f"attack.loss={self.loss} is not defined for mean probabilities; use attack.loss=ce")
        if isinstance(self.ensemble, AdaEA) and self.targets:
            raise UserError(f"attack.targets={self.targets} is not defined for adaea; use attack=ens or attack=svre")

    @property
    def together(self) -> bool:
        """Return whether one call takes all surrogates."""
        return self.ensemble is not None

    @property
    def targetable(self) -> bool:
        """Return whether it has a targeted form: AdaEA weighs its members by losses that rise."""
        return not isinstance(self.ensemble, AdaEA)

    @property
    def pool(self) -> int:
        """Return how many images of the data set the views mix in."""
        return max((piece.images for piece in self.views.values() if isinstance(piece, Admix)), default=0)

    def stocked(self, images: Tensor, labels: Tensor) -> "Transfer":
        """Set `pool` images of the data set, [n, C, H, W], and their labels [n]."""
        views = self.views.items()
        return replace(self, views={k: v.stocked(images, labels) if isinstance(v, Admix) else v for k, v in views})

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        members = self._members(head)
        context = AttackContext(x, y, threat, log_scaled_loss(self.loss), self.step_size)
        if not self.targets:
            return self._run(head, members, context, rng)[0]
        best, order = BestCandidates.start(x), ranking(head.scores(x, rng.stream("targets")), y)
        runs = min(self.targets, order.shape[1])
        for rank in range(runs):
            at = (~best.broken).nonzero().squeeze(1)
            if not len(at):
                break
            below = rng.select(at).stream(rank)
            z, broken = self._run(head, members, replace(context, target=order[:, rank]).select(at), below)
            margin = margins(head.scores(z, below.stream("margin")), y[at]) if runs > 1 else z.new_zeros(len(at))
            best.note(at, z, margin, broken)
        return best.z

    def _run(self, head: CountedHead, members: Members, context: AttackContext, rng: Rng) -> tuple[Tensor, Tensor]:
        """Return candidates of one run, and which of them fooled the victim on the way, bool [B]."""
        z = self._start(context, rng.stream("start"))
        state = MomentumState(torch.arange(len(z), device=z.device), context, z, torch.zeros_like(z), None, rng)
        best, done = z.clone(), torch.zeros(len(z), dtype=torch.bool, device=z.device)
        for number in range(self.steps):
            result, draw, shown = None, state.rng.stream(number), self._ahead(state)
            if self.smoothing is None or self.smoothing.central:
                result = self._mean_gradient(members, state.context, shown, draw)
            broken = _fallen(head, state, shown, result, draw)
            center = None if result is None else result.gradient
            if broken.any():
                gone, stay = positions(z.device, broken.nonzero()[0], (~broken).nonzero()[0])
                best[state.at[gone]], done[state.at[gone]] = state.z[gone], True
                state, center = state.select(stay), None if center is None else center.select(stay)
            if not len(state.at):
                return best, done
            state = self._moved(members, state, center, number)
        best[state.at] = state.z
        return best, done

    def _members(self, head: CountedHead) -> Members:
        count = len(head.members)
        if self.ensemble is not None and count < 2:
            raise UserError("attack.ensemble needs two or more surrogates, there is one; add some or use attack=mi")
        if self.ensemble is None and count > 1:
            raise UserError(f"this attack takes one network, there are {count}; use attack=ens, svre or adaea")
        return head.members

    def _start(self, context: AttackContext, rng: Rng) -> Tensor:
        z = context.threat.random(context.x, rng) if self.random_start else context.x
        if self.noise == 0:
            return z
        noise = rng.stream("noise").normal(tuple(z.shape[1:]), dtype=z.dtype)
        return context.threat.project(z + self.noise * noise, context.x)

    def _ahead(self, state: "MomentumState") -> Tensor:
        return state.z + state.context.shift(self.decay * state.momentum) if self.nesterov else state.z

    def _mean_gradient(self, members: Members, context: AttackContext, z: Tensor, rng: Rng) -> GradientResult:
        """Return the mean gradient at z over all views. The logits are those of the first view that changes nothing."""
        ask, views = self.ensemble or alone, TransformGrid(self.views, context, rng)
        total: GradientResult | None = None
        for copy in range(views.count):
            result = ask(members, partial(views.shown, copy), context, z, rng.stream(copy))
            share = weighted_sum((1 / views.count, result.gradient))
            if total is None:
                total = result._replace(gradient=share)
                continue
            logits = torch.where(total.plain[:, None], total.logits, result.logits)
            total = GradientResult(
                logits, total.plain | result.plain, weighted_sum((1.0, total.gradient), (1.0, share))
            )
        assert total is not None
        return total

    def _moved(
        self, members: Members, state: "MomentumState", center: LogScaledGradient | None, number: int
    ) -> "MomentumState":
        """Take one step."""
        gradient, memory = center, None
        if self.smoothing is not None:
            draw, context = state.rng.stream(number).stream("around"), state.context
            gradient, memory = self.smoothing(
                lambda z, below: self._mean_gradient(members, context, z, below).gradient,
                self._ahead(state), center, state.memory, context, draw, number == self.steps - 1,
            )  # fmt: skip
        assert gradient is not None
        direction = gradient.direction if self.kernel is None else self.kernel(gradient.direction)
        momentum = self.decay * state.momentum + state.context.scaled(direction)
        return state._replace(z=state.context.stepped(state.z, momentum), momentum=momentum, memory=memory)


class MomentumState(NamedTuple):
    """The samples that survive so far, and where they are."""

    at: Tensor  # positions in the batch, int64 [b]
    context: AttackContext
    z: Tensor
    momentum: Tensor
    memory: LogScaledGradient | None
    rng: Rng

    def select(self, stay: Tensor) -> "MomentumState":
        memory = None if self.memory is None else self.memory.select(stay)
        return MomentumState(
            self.at[stay], self.context.select(stay), self.z[stay], self.momentum[stay], memory, self.rng.select(stay)
        )


def _fallen(
    head: CountedHead, state: MomentumState, shown: Tensor, result: GradientResult | None, rng: Rng
) -> HostMask:
    """Return which points fool the victim, bool [b]. Where the logits of a gradient pass are not those of the point
    itself, that costs one more forward; surrogates, which could only say no, are not asked.
    """
    z, y, fallen = state.z, state.context.y, np.zeros(len(state.at), dtype=bool)
    own = ~fallen if not head.answers else fallen
    if head.answers and result is not None:
        plain, margin = result.plain & (shown == z).flatten(1).all(1), margins(result.logits, y)
        if head.head.exact:  # points with logits of their own that say they are right are not asked about
            fallen, _, own = head.fallen(z, y, rng, margin.masked_fill(~plain, math.inf), plain)
        else:
            (own,) = head.passes.read(plain)
            (at,) = positions(z.device, own.nonzero()[0])
            fallen[own] = head.fallen(z[at], y[at], rng.select(at), margin[at])[0] if len(at) else False
    if not own.all():
        (at,) = positions(z.device, (~own).nonzero()[0])
        z, y, draw = z[at], y[at], rng.select(at)
        fallen[~own] = head.fallen(z, y, draw, margins(head.scores(z, draw.stream("check")), y), plain=True)[0]
    return fallen

"""ARC: the attack on randomized ensembles that fools one member after the other and never gives one up for less."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.linearized_boundary import DUAL
from gauntlet.attacks.randomized_ensemble.expected_error import (
    TIE,
    ExpectedErrorState,
    Mixture,
    WorstExpectedError,
    restart_states,
)
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

BISECTIONS = 40


@dataclass(frozen=True)
class ARC(Knobs, key="attack"):
    """Accumulates steps towards the nearest boundary of each member (Dbouk and Shanbhag 2022, arXiv 2206.06737).

    A round visits the members. Each adds to the step so far just as much of its own direction as takes the normalized
    sum across its boundary; the sum is kept unless it raises the expected accuracy. So the expected accuracy never
    rises, which a mean loss does not promise. On a defense that is no mixture, each head is its only member.

    Args:
        steps: rounds, >= 1; 20 in the paper.
        variant: how much of its direction a member adds. released: by the released code, which measures the distance to
            its boundary from the end of the step so far. recentred: the same formula with the distance from the start
            of the round, as its derivation needs. exact: the least that crosses the boundary of the linearized member,
            in closed form under l2 and by bisection under linf.
        step_size: length of a step as a multiple of eps, > 0; 0: that of the paper, 1 under linf and 0.25 under l2.
        overshoot: added to what a member adds, as a multiple of eps, >= 0; 0.05 in the paper.
        targets: classes that a member is moved towards, the best ones but its own; 0: all.
        order: in which members are visited. random: drawn by their probabilities, anew in each round, which finds more
            (benchmarks/ensembles/arc.md); probability: the likelier first and of equals the last, as in the released
            code of the paper.
        restarts: >= 1; the first begins at the image, the others at random points. Survivors are attacked again.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    mixture: ClassVar[bool] = True

    steps: int = knob(20, least=1)
    variant: str = choice("exact", ("released", "recentred", "exact"))
    step_size: float = knob(0.0, least=0)
    overshoot: float = knob(0.05, least=0)
    targets: int = knob(0, least=0)
    order: str = choice("random", ("probability", "random"))
    restarts: int = knob(1, least=1)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        mixture = Mixture.of(head, x)
        if not len(x):
            return x.clone()
        first = mixture.evaluate(x, y, rng.stream("start"))
        best = WorstExpectedError.start(x, first)
        for state in restart_states(mixture, best, first, x, y, threat, rng, self.restarts):
            self._run(state, best)
        return best.z

    def _run(self, state: ExpectedErrorState, best: WorstExpectedError) -> None:
        for number in range(self.steps):
            stay = (~state.result.done).nonzero().squeeze(1)
            if not len(stay):
                return
            state = state.select(stay)
            self._round(state, state.rng.stream(number))
            best.note(state.index, state.z, state.result)

    def _round(self, state: ExpectedErrorState, rng: Rng) -> None:
        """Visit every member once; moves `state` in place."""
        base, local = state.z.clone(), torch.zeros_like(state.z)  # the step so far, as it is before ball and box cut it
        order = state.mixture.orders(rng.stream("order"), len(base), self.order == "random")
        for place in range(order.shape[1]):
            for number in range(order.shape[1]):
                at = ((order[:, place] == number) & ~state.result.done).nonzero().squeeze(1)
                if len(at):
                    draw, member = rng.select(at).stream(place), state.mixture.members[number]
                    step = self._step(member, base[at], local[at], state.threat.select(at), draw)
                    rows = _try(state, at, state.threat.select(at).project(base[at] + step, state.x[at]), draw)
                    local[at[rows]] = step[rows]

    def _step(self, member: CountedHead, base: Tensor, local: Tensor, threat: Threat, rng: Rng) -> Tensor:
        """Return the step from `base`, of full length, in which this member has its part beside the step so far."""
        gap, gradient = self._nearest(member, base + local, threat.norm, rng)
        share = self.step_size or (1.0 if threat.norm == "linf" else 0.25)
        radius = (threat.budget(base) * share).flatten().expand(len(base))
        extra = (threat.budget(base) * self.overshoot).flatten().expand(len(base))
        # A gradient of zero has no direction and no distance: the member then adds nothing.
        length = torch.linalg.vector_norm(gradient.flatten(1), DUAL[threat.norm], dim=1)
        safe = length.clamp_min(torch.finfo(length.dtype).tiny)
        direction = threat.steepest(-gradient)
        ahead = -(gradient.flatten(1) / safe[:, None] * local.flatten(1)).sum(1)
        amount = self._amount(gap / safe, ahead, radius, extra, direction, local, threat.norm)
        step = local + _wide(amount, direction) * direction
        size = torch.linalg.vector_norm(step.flatten(1), math.inf if threat.norm == "linf" else 2, dim=1)
        return step * _wide(radius / size.clamp_min(torch.finfo(size.dtype).tiny), step)

    def _nearest(self, member: CountedHead, point: Tensor, norm: str, rng: Rng) -> tuple[Tensor, Tensor]:
        """Return the gap [b] from the predicted class to that whose linearized boundary is nearest, and its
        gradient."""
        logits, pull = member.linearize(point, rng)
        ranked = logits.argsort(dim=1, descending=True, stable=True)
        count = min(self.targets or ranked.shape[1], ranked.shape[1] - 1)
        rows = torch.arange(len(logits), device=logits.device)
        top, best = ranked[:, 0], None
        for rank in range(1, count + 1):
            rival = ranked[:, rank]
            aim = torch.zeros_like(logits)
            aim[rows, top], aim[rows, rival] = 1.0, -1.0
            gradient, gap = pull(aim), (logits[rows, top] - logits[rows, rival]).to(point.dtype)
            length = torch.linalg.vector_norm(gradient.flatten(1), DUAL[norm], dim=1)
            away = gap / length.clamp_min(torch.finfo(length.dtype).tiny)
            if best is None:
                best = away, gap, gradient
            else:
                nearer = away < best[0]
                picked = torch.where(nearer, away, best[0]), torch.where(nearer, gap, best[1])
                best = (*picked, torch.where(_wide(nearer, gradient), gradient, best[2]))
        assert best is not None, "a classifier has two classes at least"
        return best[1], best[2]

    def _amount(
        self, away: Tensor, ahead: Tensor, radius: Tensor, extra: Tensor, direction: Tensor, local: Tensor, norm: str
    ) -> Tensor:
        """Return what the member adds of its direction, [b].

        Args:
            away: distance to its boundary from the end of the step so far, ahead: how far that step went towards it.
            radius: of the step, extra: beyond the boundary.
            direction: its direction, of length one; local: the step so far.
        """
        from_start = away + ahead
        far = away if self.variant == "released" else from_start
        room = (radius - far).clamp_min(torch.finfo(radius.dtype).tiny)
        if self.variant != "exact":
            amount = radius / room * (far - ahead).abs() + extra
        elif norm == "l2":
            share = (from_start / radius).clamp(-1, 1)
            across = (local.flatten(1).square().sum(1) - ahead.square()).clamp_min(0)
            root = (across / (1 - share.square()).clamp_min(1e-12)).sqrt()
            amount = (share * root - ahead).clamp_min(0) + extra
        else:
            amount = _bisected(from_start, ahead, radius, direction, local) + extra
        still = local.flatten(1).abs().amax(1) == 0  # the first member takes the whole step
        return torch.where((far < radius) & ~still, amount, radius)


def _try(state: ExpectedErrorState, at: Tensor, z: Tensor, rng: Rng) -> Tensor:
    """Go to these points where that does not lower the error, in place; which of them, as positions in `at`."""
    result = state.mixture.evaluate(z, state.y[at], rng.stream("tried"))
    rows = ((result.error >= state.result.error[at] - TIE) | result.done).nonzero().squeeze(1)
    state.enter(at[rows], z[rows], result.select(rows))
    return rows


def _bisected(far: Tensor, ahead: Tensor, radius: Tensor, direction: Tensor, local: Tensor) -> Tensor:
    """Return the least b >= 0 with radius (ahead + b) / max|local + b way| >= far, [b]; the left side does not fall in
    b.
    """
    low, flat, directions = torch.zeros_like(far), local.flatten(1), direction.flatten(1)
    high = radius * (radius + far.clamp_min(0)) / (radius - far).clamp_min(torch.finfo(far.dtype).tiny)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        size = (flat + middle[:, None] * directions).abs().amax(1)
        enough = radius * (ahead + middle) >= far * size
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    reached = radius * ahead >= far * flat.abs().amax(1)
    return torch.where(reached, torch.zeros_like(high), high)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))

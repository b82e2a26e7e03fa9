"""The lattice climber: one member of a mixture more at a time, without letting go of those that are fooled."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.linearized_boundary import DUAL
from gauntlet.attacks.losses import margin, margins
from gauntlet.attacks.projected_ascent import PerturbationSet
from gauntlet.attacks.randomized_ensemble.expected_error import (
    TIE,
    ExpectedErrorState,
    Mixture,
    WorstExpectedError,
    restart_states,
)
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class LatticeClimber(Knobs, key="attack"):
    """Climbs the lattice of the sets of members that one perturbation can fool (Gnecco Heredia et al. 2023, arXiv
    2307.10788): from the set that is fooled already, to that set and one member more, the likelier first, until none
    can be added.

    A climb ascends the sum of the distances to the boundary of those members of the larger set that are still right
    (their margins, each over the length of its gradient); it succeeds at the first point that fools all of the set, and
    the next one begins there. On a defense that is no mixture each head is its only member.

    Args:
        steps: of each climb, >= 1.
        step_size: first step as a multiple of eps, > 0; it falls to zero linearly.
        restarts: >= 1; from the second on the members come in an order drawn by their probabilities, from a random
            point.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    mixture: ClassVar[bool] = True

    steps: int = knob(20, least=1)
    step_size: float = knob(0.5, above=0)
    restarts: int = knob(1, least=1)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        mixture = Mixture.of(head, x)
        if not len(x):
            return x.clone()
        first = mixture.evaluate(x, y, rng.stream("start"))
        best = WorstExpectedError.start(x, first)
        for restart, state in enumerate(restart_states(mixture, best, first, x, y, threat, rng, self.restarts)):
            orders = mixture.orders(state.rng.stream("order"), len(state.index), drawn=restart > 0)
            region = PerturbationSet.around(state.threat, state.x)
            for place in range(orders.shape[1]):
                self._climb(state, region, orders[:, place], state.rng.stream(place), best)
        return best.z

    def _climb(
        self, state: ExpectedErrorState, around: PerturbationSet, wanted: Tensor, rng: Rng, best: WorstExpectedError
    ) -> None:
        """Try to fool the wanted member [B] of each sample beside those that are fooled; moves `state` in place."""
        already = state.result.wrong.gather(0, wanted[None]).squeeze(0)
        at = (~already & ~state.result.done).nonzero().squeeze(1)
        z, pool = state.z[at], state.result.wrong[:, at].scatter(0, wanted[None, at], True)
        for number in range(self.steps):
            if not len(at):
                return
            draw = rng.select(at).stream(number)
            region, y = around.select(at), state.y[at]
            gradient = _ascent(state.mixture, z, y, pool, region.threat.norm, draw)
            z = region.step(z, gradient, self.step_size * (1 - number / self.steps))
            result = state.mixture.evaluate(z, y, draw.stream("looked"))
            best.note(state.index[at], z, result)
            up = ((result.wrong | ~pool).all(0) | result.done) & (result.error >= state.result.error[at] - TIE)
            state.enter(at[up], z[up], result.select(up.nonzero().squeeze(1)))
            at, z, pool = at[~up], z[~up], pool[:, ~up]


def _ascent(mixture: Mixture, z: Tensor, y: Tensor, pool: Tensor, norm: str, rng: Rng) -> Tensor:
    """Return the gradient of the sum of the distances of those of the pool, bool [M, B], that are still right."""
    total = torch.zeros_like(z)
    for number, member in enumerate(mixture.members):
        logits, pull = member.linearize(z, rng.stream(member.head.name))
        gradient = pull(margin(logits, y))
        length = torch.linalg.vector_norm(gradient.flatten(1), DUAL[norm], dim=1)
        wanted = pool[number] & (margins(logits, y) >= 0)
        share = wanted / length.clamp_min(torch.finfo(length.dtype).tiny)
        total = total + share.reshape(-1, *[1] * (z.dim() - 1)) * gradient
    return total

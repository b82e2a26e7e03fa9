"""DDN: decoupled direction and norm attack."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.losses import ce
from gauntlet.attacks.minimum_norm.minimum_norm_loop import StepResult, farthest, minimize_norm, unit, wide
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class DDN(Knobs, key="attack"):
    """Decoupled direction and norm attack (Rony et al. 2019, arXiv 1811.09600) for l2.

    Each step goes along the gradient of cross-entropy, whatever its length, and is put on a sphere whose radius shrinks
    by a fixed share where the point fools the victim and grows by it where it does not. The nearest adversarial example
    is the answer; nothing is rounded to 256 levels. Cost: one forward and one backward a step, and ten forwards to
    refine.

    Args:
        steps: >= 1.
        step_size: length of the first step, in pixel units, > 0; it falls like a cosine to one percent.
        rate: share by which the radius changes, in (0, 1).
        first: radius of the first sphere, > 0.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    unbounded: ClassVar[bool] = True

    steps: int = knob(990, least=1)
    step_size: float = knob(1.0, above=0)
    rate: float = knob(0.05, above=0, below=1)
    first: float = knob(1.0, above=0)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z like x [B, C, H, W], the image itself where nothing was found; y: int64 [B]."""
        start = DDNState(x, x.new_full((len(x),), self.first), farthest(x, threat))
        return minimize_norm(head, x, y, start, self._advance, self.steps, loss=ce, threat=threat, rng=rng)

    def _advance(self, state: "DDNState", result: StepResult) -> tuple["DDNState", Tensor | None]:
        x, direction = result.x, unit(result.gradient)
        lost = (direction == 0).flatten(1).all(1)
        if result.rounds is None and lost.any():
            noise = result.rng.select(lost).stream(f"lost{result.number}").normal(tuple(x.shape[1:]), dtype=x.dtype)
            direction = direction.index_copy(0, lost.nonzero().squeeze(1), unit(noise))
        eps = (state.eps * torch.where(result.broken, 1 - self.rate, 1 + self.rate)).minimum(state.most)
        delta = state.z - x + self.step_size * (0.01 + 0.99 * result.cosine) * direction
        z = (x + wide(eps, x) * unit(delta)).clamp(result.threat.low, result.threat.high)
        return state._replace(z=z, eps=eps), None if result.rounds is None else 1 + result.rounds * lost


class DDNState(NamedTuple):
    z: Tensor
    eps: Tensor  # radius of the sphere
    most: Tensor  # radius that covers the box

    def select(self, index: Tensor) -> "DDNState":
        return DDNState(*(part[index] for part in self))

"""One step from a point with more noise than the budget, without coming back into the ball."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks import losses
from harness.errors import UserError
from harness.rng import Rng
from harness.threat import Threat
from training.inner import bounded
from training.mode import evaluating, frozen


@dataclass(frozen=True, kw_only=True)
class NoisyFGSM:
    """N-FGSM: x + u + step_size eps sign(gradient at x + u), u uniform in noise eps [-1, 1]; linf (arXiv 2202.01181).

    Only the box limits the result, which may lie (noise + step_size) eps from x. The network is left as it was.

    Args:
        eps: the budget: a number, or text such as "8/255".
        noise: as a multiple of eps, >= 0.
        step_size: as a multiple of eps, > 0.

    Raises:
        UserError: a value outside its range.
    """

    eps: str | float
    noise: float = 2.0
    step_size: float = 1.0

    def __post_init__(self) -> None:
        bounded("attack", "linf", self.eps)
        if not 0 <= self.noise < math.inf:
            raise UserError(f"attack.noise={self.noise} must not be negative; it is a multiple of eps")
        if not 0 < self.step_size < math.inf:
            raise UserError(f"attack.step_size={self.step_size} must be positive; it is a multiple of eps")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        """Examples z like x [B, C, H, W], detached, within the box; y: int64 [B]; factors: multiples of eps [B]."""
        threat = Threat("linf", self.eps)
        eps = (threat if factors is None else threat.scaled(factors)).budget(x)
        u = self.noise * eps * rng.uniform(tuple(x.shape[1:]), -1.0, 1.0, dtype=x.dtype)
        start = (x.detach() + u).clamp(threat.low, threat.high)
        leaf = start.clone().requires_grad_()
        with frozen(model), evaluating(model), torch.enable_grad():
            logits = model(leaf)
            (gradient,) = torch.autograd.grad(logits, leaf, losses.ce(logits, y).to(logits.dtype))
        return (start + self.step_size * eps * gradient.sign()).clamp(threat.low, threat.high)

"""The attack inside a training step: projected gradient ascent, all samples to the end, no trace in the network."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gauntlet.attacks import losses
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.training.model_context import evaluating, frozen


@dataclass(frozen=True, kw_only=True)
class NoisyFGSM(Knobs, key="attack"):
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
    noise: float = knob(2.0, least=0, hint="a multiple of eps")
    step_size: float = knob(1.0, above=0, hint="a multiple of eps")

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded("attack", "linf", self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        """Return examples like x [B, C, H, W], detached, in the box; y: int64 [B]; factors: multiples of eps [B]."""
        threat = Threat("linf", self.eps)
        threat = threat if factors is None else threat.scaled(factors)
        with evaluating(model):
            return noisy_step(model, x, y, rng, threat, self.noise, self.step_size)[0]


def noisy_step(
    model: nn.Module, x: Tensor, y: Tensor, rng: Rng, threat: Threat, noise: float, step_size: float
) -> tuple[Tensor, Tensor]:
    """Return x + u + step_size eps sign(gradient at x + u), like x [B, C, H, W], detached, in the box; and the logits
    at x + u [B, K].

    Args:
        threat: of linf; its eps, of each sample, is the unit of `noise`, the half width of u, and of `step_size`.
    """
    eps = threat.budget(x)
    u = noise * eps * rng.uniform(tuple(x.shape[1:]), -1.0, 1.0, dtype=x.dtype)
    start = (x.detach() + u).clamp(threat.low, threat.high)
    leaf = start.clone().requires_grad_()
    with frozen(model), torch.enable_grad():
        logits = model(leaf)
        (gradient,) = torch.autograd.grad(logits, leaf, losses.ce(logits, y).to(logits.dtype))
    return (start + step_size * eps * gradient.sign()).clamp(threat.low, threat.high), logits.detach()


@dataclass(frozen=True, kw_only=True)
class InnerPGD(Knobs, key="attack"):
    """Adversarial examples to train on (Madry et al. 2018, arXiv 1706.06083).

    The network keeps its weights' gradients, its batch-norm statistics (unless bn_mode=train) and its mode.

    Args:
        norm: linf, l2, l1 or l0.
        eps: the budget: a number, or text such as "8/255".
        steps: >= 0; none returns the start.
        step_size: as a multiple of eps, > 0.
        init: the start: uniform (a random point of the ball), normal (the image + 0.001 N(0, 1)) or zero (the image).
        loss: ce, margin, or kl: the divergence of the output from that on the image, which is flat at the image itself;
            or shift: the length of the change of the margins f_y - f_k, k != y, which has no gradient there.
        bn_mode: eval; or train, in which the passes use the batch's statistics and change the running ones, as much
            published code does.

    Raises:
        UserError: a value outside its range, or kl or shift from init=zero, where they have no gradient.
    """

    LOSSES: ClassVar[tuple[str, ...]] = ("ce", "kl", "margin", "shift")
    INITS: ClassVar[tuple[str, ...]] = ("uniform", "normal", "zero")
    NOISE: ClassVar[float] = 0.001

    norm: str = "linf"
    eps: str | float
    steps: int = knob(10, least=0)
    step_size: float = knob(0.25, above=0, hint="a multiple of eps")
    init: str = choice("uniform", INITS)
    loss: str = choice("ce", LOSSES)
    bn_mode: str = choice("eval", ("eval", "train"))

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded("attack", self.norm, self.eps)
        if self.loss in ("kl", "shift") and self.init == "zero":
            raise UserError(
                f"attack.loss={self.loss} has no gradient at the image itself; use attack.init=normal or uniform"
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        """Return examples z like x [B, C, H, W], detached, within the ball and the box; y: labels int64 [B].

        factors: multiples of eps per sample, float [B]; the steps scale with them.
        """
        threat = Threat(self.norm, self.eps)
        threat = threat if factors is None else threat.scaled(factors)
        x = x.detach()
        z = self._start(x, threat, rng)
        with frozen(model), evaluating(model) if self.bn_mode == "eval" else nullcontext():
            reference = self._reference(model, x) if self.loss in ("kl", "shift") and self.steps else None
            for _ in range(self.steps):
                gradient = self._gradient(model, z, y, reference)
                z = threat.project(z + threat.budget(x) * self.step_size * threat.steepest(gradient), x)
        return z

    def _start(self, x: Tensor, threat: Threat, rng: Rng) -> Tensor:
        if self.init == "uniform":
            return threat.random(x, rng)
        if self.init == "normal":
            return threat.project(x + self.NOISE * rng.normal(tuple(x.shape[1:]), dtype=x.dtype), x)
        return x.clone()

    @torch.no_grad()
    def _reference(self, model: nn.Module, x: Tensor) -> Tensor:
        """Return what `_gradient` compares with: probabilities, or for shift logits, on the image itself, [B, K]."""
        logits: Tensor = model(x)
        return logits.softmax(1) if self.loss == "kl" else logits

    def _gradient(self, model: nn.Module, z: Tensor, y: Tensor, reference: Tensor | None) -> Tensor:
        leaf = z.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(leaf)
        if reference is None:
            direction = losses.named(self.loss)(logits, y)
        else:
            direction = _divergence(logits, reference) if self.loss == "kl" else _shift(logits, reference, y)
        (gradient,) = torch.autograd.grad(logits, leaf, direction.to(logits.dtype))
        return gradient


def bounded(field: str, norm: str, eps: str | float) -> Threat:
    """Return the threat of a field of a recipe. Raises UserError that names the field where it is unfit or has no
    bound.
    """
    try:
        threat = Threat(norm, eps)
    except UserError as cause:
        raise UserError(str(cause).replace("threat.", f"{field}.")) from None
    if threat.unbounded:
        raise UserError(f"{field}.eps={eps}: training needs a bound; write for example {field}.eps=8/255 or 0.03")
    return threat


def _divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """Return the gradient of KL(p || q) with respect to the logits of q, scaled to sum of absolute values one: q -
    p."""
    difference = logits.detach().softmax(1) - reference
    return difference / difference.abs().sum(1, keepdim=True).clamp_min(torch.finfo(difference.dtype).tiny)


def _shift(logits: Tensor, reference: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of the sum over k of (d_y - d_k)^2, d the change of the logits [B, K], scaled likewise."""
    change = logits.detach() - reference
    gaps = change.gather(1, y[:, None]) - change
    gradient = (-gaps).scatter(1, y[:, None], gaps.sum(1, keepdim=True))
    return gradient / gradient.abs().sum(1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)

"""Training at weights that an adversary has moved: AWP, AMP, SAM and ASAM are settings of one perturbation."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice, knob

Gradients = Callable[[list[nn.Parameter]], list[Tensor]]
"""Gives the gradients of the mean loss at the weights as they are."""


@dataclass(frozen=True, kw_only=True)
class WeightPerturbation(Knobs, key="recipe.weight_perturbation"):
    """The gradient of a step is taken at theta + v, and the step is made from theta; v ascends the loss of the batch.

    | method | source | radius, relative | scope | shape | include | steps |
    |---|---|---|---|---|---|---|
    | AWP | arXiv 2004.05884 | 0.01 (TRADES 0.005), true | tensor | sphere | kernels | 1 |
    | AMP | arXiv 2010.04925 | 0.5, false | tensor | ball, step_size 1 | all | 1 |
    | SAM | arXiv 2010.01412 | 0.05, false | global | sphere | all | 1 |
    | ASAM | arXiv 2102.11600 | 0.5, false, adaptive | global | sphere | all | 1 |

    With theta_b the weights of a block b (see scope) and g_b the gradient there, a step on the sphere adds
    radius ||theta_b|| / steps * g_b / ||g_b|| (without ||theta_b|| where relative is false; theta_b is that before the
    first step), so that one step has exactly that length; a step in the ball adds step_size * g_b and shortens v_b to
    the radius. adaptive: with the sizes T = |theta| + 0.01 of each weight of two or more dimensions (biases and norms:
    T = 1), the direction g / ||g|| is T^2 g / ||T g||. The weights come back bit for bit, also when an error is raised;
    gradients that are there, the optimizer and the draws of dropout do not notice.

    Args:
        radius: of the perturbation, >= 0; 0 is off. As a share of the norm of the block where `relative`.
        relative: see radius.
        scope: the block with one norm: tensor, filter (each output channel of a tensor) or global (all together).
        shape: sphere or ball.
        include: kernels (tensors of two or more dimensions: convolutions and linear layers) or all (biases, norms too).
        steps: >= 0; 0 is off. Each costs a forward and a backward pass.
        step_size: of shape=ball, > 0.
        adaptive: scale by the size of each weight; of shape=sphere.
        loss: outer: what the recipe minimizes, on the same examples; clean: cross-entropy on the images as they are.
        clip: largest norm of the gradient of a step of shape=ball, over all blocks; 0 is off.
        batch_norm: statistics follow the pass at the weights: perturbed (theta + v) or clean (theta).
        start: share of the training before which there is no perturbation, in [0, 1); whole epochs.

    Raises:
        UserError: a value outside its range, or adaptive in a ball.
    """

    FLOOR: ClassVar[float] = 0.01

    radius: float = knob(0.01, least=0, hint="0 is off")
    relative: bool = True
    scope: str = choice("tensor", ("tensor", "filter", "global"))
    shape: str = choice("sphere", ("sphere", "ball"))
    include: str = choice("kernels", ("kernels", "all"))
    steps: int = knob(1, least=0, hint="0 is off")
    step_size: float = knob(1.0, above=0)
    adaptive: bool = False
    loss: str = choice("outer", ("outer", "clean"))
    clip: float = knob(0.0, least=0, hint="0 is off")
    batch_norm: str = choice("perturbed", ("perturbed", "clean"))
    start: float = knob(0.0, least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adaptive and self.shape == "ball":
            raise UserError("recipe.weight_perturbation.adaptive=True needs shape=sphere")

    def active(self, progress: float) -> bool:
        """Return whether it takes part in an epoch that begins at that share of the training."""
        return self.radius > 0 and self.steps > 0 and progress >= self.start

    def chosen(self, weights: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Return those that are perturbed."""
        return [weight for weight in weights if weight.requires_grad and (self.include == "all" or weight.dim() > 1)]

    @contextmanager
    def moved(self, weights: list[nn.Parameter], gradients: Gradients, progress: float = 0.0) -> Iterator[None]:
        """Hold `weights` (as `chosen` gives them) at theta + v within the block; afterwards they are back.

        progress: share of the training that is done.
        """
        origin = [weight.detach().clone() for weight in weights]
        moves = [torch.zeros_like(weight) for weight in origin]
        radii = self._radii(origin, progress)
        try:
            for _ in range(self.steps):
                moves = self._step(origin, moves, radii, gradients(weights))
                with torch.no_grad():
                    for weight, old, move in zip(weights, origin, moves, strict=True):
                        weight.copy_(old + move)
            yield
        finally:
            with torch.no_grad():
                for weight, old in zip(weights, origin, strict=True):
                    weight.copy_(old)

    def _radii(self, origin: list[Tensor], progress: float) -> list[Tensor]:
        """Return the radius of the block of each tensor, to be multiplied with it."""
        return [self.radius * size for size in self._units(origin)]

    def _units(self, origin: list[Tensor]) -> list[Tensor]:
        return self._norms(origin) if self.relative else [torch.ones((), device=old.device) for old in origin]

    def _step(
        self, origin: list[Tensor], moves: list[Tensor], radii: list[Tensor], gradients: list[Tensor]
    ) -> list[Tensor]:
        if self.shape == "ball":
            share = self._clipped(gradients)
            moves = [move + self.step_size * share * g for move, g in zip(moves, gradients, strict=True)]
            sizes = self._norms(moves)
            return [m * (r / _some(size)).clamp_max(1) for m, r, size in zip(moves, radii, sizes, strict=True)]
        scales = [self._scale(old) for old in origin]
        directions = [scale * g for scale, g in zip(scales, gradients, strict=True)]
        sizes = self._norms(directions)
        return [
            move + scale * direction * (r / self.steps / _some(size))
            for move, scale, direction, r, size in zip(moves, scales, directions, radii, sizes, strict=True)
        ]

    def _scale(self, old: Tensor) -> Tensor | float:
        return old.abs() + self.FLOOR if self.adaptive and old.dim() > 1 else 1.0

    def _clipped(self, gradients: list[Tensor]) -> Tensor | float:
        return (self.clip / _some(_together(gradients))).clamp_max(1) if self.clip else 1.0

    def _norms(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the norm of the block of each tensor, to be multiplied with it."""
        if self.scope == "global":
            return [_together(tensors)] * len(tensors)
        if self.scope == "filter":
            return [_rows(tensor) if tensor.dim() > 1 else _size(tensor) for tensor in tensors]
        return [_size(tensor) for tensor in tensors]


def _rows(tensor: Tensor) -> Tensor:
    sizes: Tensor = torch.linalg.vector_norm(tensor.flatten(1), dim=1)
    return sizes.reshape(-1, *[1] * (tensor.dim() - 1))


def _together(tensors: list[Tensor]) -> Tensor:
    return _size(torch.stack([_size(tensor) for tensor in tensors]))


def _size(tensor: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(tensor)
    return size


def _some(size: Tensor) -> Tensor:
    """Return the norms to divide by: where the gradient vanishes there is no direction, and no move."""
    return size.clamp_min(torch.finfo(size.dtype).tiny)

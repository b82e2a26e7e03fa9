"""Module robust criticality: how much a small change of one module's weights can cost on adversarial examples."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.data.dataset import Split
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.training.model_context import evaluating, frozen
from gauntlet.training.objectives.objective import InnerAttack

CHUNK = 250


@dataclass(frozen=True)
class Criticality(Knobs, key="recipe.objective.criticality"):
    """max of L(theta + D) - L(theta) over changes D of one module with |D| <= radius |theta| (Zhu et al. 2023, arXiv
    2308.02533): L is the mean cross-entropy on examples that are crafted once.

    Steps of gradient ascent have a length of their own, as a multiple of the radius, where the authors have a rate of
    one: so a convolution that batch norm rescales anyway is as critical at any scale. The network is in eval mode.

    Args:
        radius: of the ball, as a multiple of the norm of the module's weights, > 0.
        steps: >= 1.
        step_size: as a multiple of the radius, > 0.
        limit: take the first images, >= 1; null takes them all.

    Raises:
        UserError: a value outside its range.
    """

    radius: float = knob(0.1, above=0)
    steps: int = knob(10, least=1)
    step_size: float = knob(0.25, above=0, hint="a multiple of the radius")
    limit: int | None = knob(1000, least=1, optional=True, hint="null uses all images")

    def examples(
        self, model: nn.Module, attack: InnerAttack, split: Split, seed: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return examples against the network as it is, [n, C, H, W], and their labels, [n]."""
        found, labels = [], []
        count = len(split.ids) if self.limit is None else min(self.limit, len(split.ids))
        for begin in range(0, count, CHUNK):
            batch = split.read(slice(begin, min(begin + CHUNK, count)))
            x, y = batch.x.to(device), batch.y.to(device)
            found.append(attack(model, x, y, Rng(seed, batch.ids.to(device), "criticality")))
            labels.append(y)
        return torch.cat(found), torch.cat(labels)

    def __call__(self, model: nn.Module, module: nn.Module, z: Tensor, y: Tensor) -> float:
        """Return the criticality of a module of the network, >= 0; its weights are afterwards as they were.

        z, y: as `examples` gives them.
        """
        weights = list(module.parameters())
        origin = [weight.detach().clone() for weight in weights]
        size = _length(origin) * self.radius
        flags = [weight.requires_grad for weight in weights]
        with evaluating(model), frozen(model):
            for weight in weights:
                weight.requires_grad_()
            try:
                first, gradients = _loss(model, weights, z, y)
                worst = first
                for _ in range(self.steps):
                    self._ascend(weights, origin, gradients, size)
                    loss, gradients = _loss(model, weights, z, y)
                    worst = max(worst, loss)
            finally:
                with torch.no_grad():
                    for weight, old, flag in zip(weights, origin, flags, strict=True):
                        weight.copy_(old)
                        weight.requires_grad_(flag)
        return worst - first

    @torch.no_grad()
    def _ascend(self, weights: list[nn.Parameter], origin: list[Tensor], gradients: list[Tensor], size: Tensor) -> None:
        step = self.step_size * size / _length(gradients).clamp_min(torch.finfo(size.dtype).tiny)
        moves = [w + step * g - old for w, g, old in zip(weights, gradients, origin, strict=True)]
        share = (size / _length(moves).clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(1)
        for weight, old, move in zip(weights, origin, moves, strict=True):
            weight.copy_(old + share * move)


def layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the convolutions and linear layers of a network with their names: the modules whose criticality counts."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and name:
            yield name, module


def least_critical(found: dict[str, float]) -> str:
    """Return the module with the smallest criticality, of equals the first. Raises UserError where there is none."""
    if not found:
        raise UserError("the network has no convolution or linear layer to choose from; name recipe.objective.module")
    return min(found, key=lambda name: found[name])


def _loss(model: nn.Module, weights: list[nn.Parameter], z: Tensor, y: Tensor) -> tuple[float, list[Tensor]]:
    """Return the mean loss, and its gradient to the weights."""
    total, sums = 0.0, [torch.zeros_like(weight) for weight in weights]
    for part, labels in zip(torch.split(z, CHUNK), torch.split(y, CHUNK), strict=True):
        loss = F.cross_entropy(model(part), labels, reduction="sum")
        for whole, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
            whole += gradient / len(y)
        total += float(loss.detach())
    return total / len(y), sums


def _length(tensors: list[Tensor]) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]))
    return length

"""Pruning of whole filters in training: a growing share of the output channels becomes zero, and stays so."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.training.sample_weighting import Progress
from gauntlet.training.simple_corruptions import accuracy_under_corruptions
from gauntlet.training.weight_constraint import WeightConstraint

Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class FilterPruning(Knobs, WeightConstraint, key="recipe.constraint"):
    """The filters of the smallest Euclidean norm of each convolution and linear layer but the last linear one are zero.

    Their share grows linearly from none at `start` to `sparsity` at `end`, rounded down in each layer. A filter that is
    zero stays so. What comes through the batch norm behind it is then a constant of the channel, which can be folded
    into the next layer; here the layers keep their shape.

    Args:
        sparsity: share of the filters of a layer, in [0, 1).
        start, end: shares of the training, 0 <= start < end < 1.

    Raises:
        UserError: a value outside its range.
    """

    sparsity: float = knob(0.5, least=0, below=1)
    start: float = knob(0.3, least=0, below=1)
    end: float = knob(0.6, above=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start >= self.end:
            raise UserError(f"recipe.constraint.start={self.start} must be below recipe.constraint.end={self.end}")

    def begin(self, model: nn.Module) -> None:
        """Leave the weights as they are. Raises UserError where there is no layer to prune."""
        if not prunable(model):
            raise UserError("recipe.constraint prunes convolutions and all linear layers but the last: here are none")

    @contextmanager
    def around(self, model: nn.Module, progress: Progress) -> Iterator[None]:
        layers = prunable(model)
        gone = [zero_filters(layer) for layer in layers]
        yield
        share = self.share(progress.now)
        for layer, old in zip(layers, gone, strict=True):
            _prune(layer, old, int(share * len(old)))

    def share(self, progress: float) -> float:
        """Return the share of the filters that are zero after a step that began at that share of the training."""
        return self.sparsity * min(max((progress - self.start) / (self.end - self.start), 0.0), 1.0)

    def reached(self, progress: float) -> bool:
        return self.sparsity == 0 or progress >= self.end

    def columns(self, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        """Return the share of weights that are zero, and the accuracy under corruptions."""
        return {"sparsity": sparsity(model), "corrupted": accuracy_under_corruptions(model, x, y)}


def prunable(model: nn.Module) -> list[Layer]:
    """Return the layers whose filters may go: every convolution, and every linear layer but the last."""
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    last = next((layer for layer in reversed(layers) if isinstance(layer, nn.Linear)), None)
    return [layer for layer in layers if layer is not last]


def zero_filters(layer: Layer) -> Tensor:
    """Return which output channels of a layer have no weight that is not zero, bool [n]."""
    return (layer.weight.detach().flatten(1) == 0).all(1)


def sparsity(model: nn.Module) -> float:
    """Return the share of the weights of convolutions and linear layers that are zero, in [0, 1]."""
    weights = [module.weight.detach() for module in model.modules() if isinstance(module, Layer)]
    return sum(int((weight == 0).sum()) for weight in weights) / max(1, sum(weight.numel() for weight in weights))


@torch.no_grad()
def _prune(layer: Layer, old: Tensor, count: int) -> None:
    """Set the filters that were zero to zero again, and the smallest of the others until there are `count`."""
    sizes = layer.weight.flatten(1).norm(dim=1).masked_fill(old, -1.0)  # those come first
    chosen = sizes.argsort(stable=True)[: max(count, int(old.sum()))]
    layer.weight[chosen] = 0
    if layer.bias is not None:
        layer.bias[chosen] = 0

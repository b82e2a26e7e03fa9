"""A set that the weights stay in while they are trained, such as factors of low rank, or filters that are zero."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor, nn

from gauntlet.training.sample_weighting import Progress


class WeightConstraint(Protocol):
    """What acts on the weights around each step of an optimizer; what it knows, it reads off the weights.

    So a training that was killed goes on as if it had not been. A subclass overrides what differs.
    """

    def begin(self, model: nn.Module) -> None:
        """Bring the first weights into the set, in place. Raises UserError where the network does not fit."""

    @contextmanager
    def around(self, model: nn.Module, progress: Progress) -> Iterator[None]:
        """Take the step of the optimizer within the block: gradients are changed before it, weights after it."""
        yield

    def reached(self, progress: float) -> bool:
        """Return whether the weights are in the set after a step that began at that share of the training.

        Epochs before are never the best.
        """
        return True

    def columns(self, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        """Return the numbers of an epoch, by name. model: in eval mode, from pixels to logits; x, y: validation images
        [B, C, H, W] and labels [B].
        """
        return {}

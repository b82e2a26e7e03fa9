"""The weighting of a training at work: what it needs is observed, and the losses of a batch become one number."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.training.distributed import ProcessGroup
from gauntlet.training.objectives.objective import Objective
from gauntlet.training.sample_weighting import BatchOutcome, Memory, Progress, Weighting


class Weigher:
    """Weights the losses of one player's batches; `memory` is what its weighting carries from step to step.

    The network is observed by forward hooks, so that no objective need know of weights.

    Args:
        weighting: None: all samples alike.
        objective: whose losses are weighted.

    Raises:
        UserError: the weighting is for a part of the loss, and the objective has no parts.
    """

    def __init__(
        self, weighting: Weighting | None, objective: Objective, model: nn.Module, processes: ProcessGroup
    ) -> None:
        self._weighting, self._objective, self._model, self._processes = weighting, objective, model, processes
        self._term: str | None = getattr(weighting, "term", None)
        self._needs: tuple[str, ...] = getattr(weighting, "needs", ())
        self.memory: Memory = {}
        self._own: Tensor | None = None
        self._rest: Tensor | None = None
        self._logits: Tensor | None = None
        self._right: Tensor | None = None
        self._last: BatchOutcome | None = None
        if self._term and not callable(getattr(objective, "terms", None)):
            raise UserError(
                f"recipe.weighting.term={self._term}: the loss of {type(objective).__name__} has no such parts; "
                "set it to null"
            )

    def factors(self, y: Tensor, progress: Progress) -> Tensor | None:
        """Return the multiples of the budget of the attack [B], or None: all ones."""
        return self._weighting.factors(y, progress, self.memory) if self._weighting else None

    def examples(self, make: Callable[[], Tensor], y: Tensor) -> Tensor:
        """Return the examples, the steps of whose attack are watched where the weighting asks for that."""
        if "right_steps" not in self._needs:
            return make()
        right, steps = torch.zeros(len(y), device=y.device), 0

        def see(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            nonlocal steps
            if (
                isinstance(output, Tensor) and output.requires_grad
            ):  # a step; a look at the image itself has no gradient
                steps += 1
                right.add_((output.detach().argmax(1) == y).to(right))

        with _hooked(self._model, see):
            z = make()
        if not steps:
            raise UserError(
                f"{self._name()} counts steps of an attack on the network, and {type(self._objective).__name__} "
                "makes none"
            )
        self._right = right / steps
        return z

    def losses(self, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        """Return the losses of the objective [B]; what the weighting needs of them is kept for `mean`."""
        self._logits = self._own = self._rest = None
        given = (self._model, x, y, z, rng)

        def see(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if inputs and inputs[0] is z:
                self._logits = output.detach()

        with _hooked(self._model, see if "logits" in self._needs else None):
            if self._term is None:
                return self._objective.losses(*given)
            parts: dict[str, Tensor] = dict(self._objective.terms(*given))  # type: ignore[attr-defined]
        if self._term not in parts:
            raise UserError(
                f"recipe.weighting.term={self._term} is no part of this loss; it has {', '.join(sorted(parts))}"
            )
        self._own = parts.pop(self._term)
        self._rest = sum(parts.values(), torch.zeros_like(self._own))
        return self._own + self._rest

    def plain(self, losses: Tensor, logits: Tensor) -> Tensor:
        """Return losses [B] that are none of the objective's, to be weighted as a whole; logits: theirs, [B, K]."""
        self._logits, self._own, self._rest = logits.detach(), None, None
        return losses

    def mean(self, losses: Tensor, y: Tensor, progress: Progress) -> Tensor:
        """Return the mean of the weighted losses [B], as `losses` gave them, a number with gradient."""
        if self._weighting is None:
            return losses.mean()
        gather = self._processes.gather
        rest, logits, right = self._rest, self._logits, self._right
        if "logits" in self._needs and logits is None:
            raise UserError(
                f"{self._name()} needs the logits on the examples, and {type(self._objective).__name__} does not "
                "pass them through the network as they are"
            )
        own = losses if self._own is None else self._own
        batch = BatchOutcome(
            gather(own.detach()), gather(y), progress,
            None if logits is None else gather(logits), None if right is None else gather(right),
        )  # fmt: skip
        weights = self._weighting.weights(batch, self.memory)
        if not bool((weights >= 0).all() & (weights.sum() > 0) & weights.isfinite().all()):
            raise UserError(
                f"the weights of {self._name()} for a batch must be zero or positive, and not all zero; choose milder "
                "settings, or begin it later"
            )
        self._last = batch
        weighted = self._processes.share(weights) * own
        return (weighted if rest is None else weighted + rest).mean()

    def step(self) -> None:
        """Remember the batch that was weighted last, once the step is made."""
        if self._weighting and self._last is not None:
            self.memory = self._weighting.remembered(self._last, self.memory)
        # Nothing of a step outlives it: these hold the graph of its losses.
        self._own = self._rest = self._logits = self._right = self._last = None

    def columns(self) -> dict[str, float]:
        """Return the numbers of the weighting for the line of an epoch."""
        return self._weighting.columns(self.memory) if self._weighting else {}

    def _name(self) -> str:
        return f"recipe.weighting={type(self._weighting).__name__}"


@contextmanager
def _hooked(model: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...], Any], None] | None) -> Iterator[None]:
    """Call the hook after each forward pass within the block."""
    if hook is None:
        yield
        return
    handle = model.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()

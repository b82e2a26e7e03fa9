"""One move of one player: examples, weight perturbation, gradient, optimizer, constraint."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.training.alternating_updates import Phase
from gauntlet.training.distributed import ProcessGroup
from gauntlet.training.model_context import frozen
from gauntlet.training.recipe import Recipe
from gauntlet.training.sample_weighting import Progress
from gauntlet.training.weigher import Weigher

Closure = Callable[[], Tensor]


class NotFinite(UserError):
    """The loss of a batch is NaN or infinite. batch: what to look at, tensors by name."""

    def __init__(self, where: str, batch: dict[str, Tensor]) -> None:
        super().__init__(where)
        self.batch = batch


class Player:
    """Move some weights of a network by one objective; several take turns in `alternating_updates.Alternation`.

    Args:
        phase: the move of an alternation and its weights; None: the whole network moves as the recipe says.

    Raises:
        UserError: there are no weights to train.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, processes: ProcessGroup, phase: tuple[Phase, list[nn.Parameter]] | None
    ) -> None:
        self.model, self.recipe, self.processes = model, recipe, processes
        auxiliary: nn.Module | None = getattr(recipe.objective, "auxiliary", None)
        self._networks = [model, auxiliary] if auxiliary else [model]
        own = [weight for network in self._networks for weight in network.parameters()]
        move, weights = phase or (Phase(group="", perturbed=True), own)
        self.name = move.group
        self.objective = move.objective or recipe.objective
        self.weights = [weight for weight in weights if weight.requires_grad]
        self.optimizer = recipe.make_optimizer(self.weights, move)
        self._rate = recipe.learning_rate if move.learning_rate is None else move.learning_rate
        self._perturbation = recipe.weight_perturbation if move.perturbed else None
        self._alone = phase is None
        self.weigher = Weigher(recipe.weighting, self.objective, model, processes)

    def __call__(self, x: Tensor, y: Tensor, rng: Rng, share: float, progress: tuple[float, float]) -> Tensor:
        """Move once; the losses before the move [B], detached. x, y: this process's share of the batch.

        share: of the peak learning rate; progress: share of the training that is done, and at the last end of an epoch.
        """
        done = Progress(*progress)
        factors = self.weigher.factors(y, done)
        draws = rng.stream("objective" if self._alone else f"phase/{self.name}")
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate * share
        with nullcontext() if self._alone else frozen(self.model, but=self.weights):
            # Without factors they are not named, so that an objective of one's own need not know of them.
            named = {} if factors is None else {"factors": factors}
            z = self.weigher.examples(lambda: self.objective.examples(self.model, x, y, draws, **named), y)

            def losses() -> Tensor:
                return self.weigher.losses(x, y, z, draws)

            with self._perturbed(losses, x, y, done):
                found = losses()
                self._check(found, x, y, z, rng)
                self.optimizer.zero_grad(set_to_none=True)
                self.weigher.mean(found, y, done).backward()  # type: ignore[no-untyped-call]
        self.processes.mean([weight.grad for weight in self.weights if weight.grad is not None])
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.weights, self.recipe.clip)
        constraint = self.recipe.constraint
        with constraint.around(self.model, done) if constraint else nullcontext():
            self.optimizer.step()
        self.weigher.step()
        return found.detach()

    @contextmanager
    def _perturbed(self, losses: Closure, x: Tensor, y: Tensor, progress: Progress) -> Iterator[None]:
        perturbation = self._perturbation
        if perturbation is None or not perturbation.active(progress.epoch):
            yield
            return
        before = self._buffers()
        first: list[Tensor] = []

        def gradients(weights: list[nn.Parameter]) -> list[Tensor]:
            with _same_draws(x.device):
                if perturbation.loss == "outer":
                    ascended = losses()
                else:
                    logits = self.objective.classifier(self.model)(x)
                    ascended = self.weigher.plain(F.cross_entropy(logits, y, reduction="none"), logits)
            found = torch.autograd.grad(self.weigher.mean(ascended, y, progress), weights, allow_unused=True)
            given = [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)]
            self.processes.mean(given)
            first[:] = first or self._buffers()
            self._restore(before)
            return given

        with perturbation.moved(perturbation.chosen(self.weights), gradients, progress.now):
            yield
        if perturbation.batch_norm == "clean":
            self._restore(first)

    def _buffers(self) -> list[Tensor]:
        return [buffer.clone() for network in self._networks for buffer in network.buffers()]

    @torch.no_grad()
    def _restore(self, values: list[Tensor]) -> None:
        buffers = [buffer for network in self._networks for buffer in network.buffers()]
        for buffer, value in zip(buffers, values, strict=True):
            buffer.copy_(value)

    def _check(self, losses: Tensor, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> None:
        if not self.processes.all(bool(losses.detach().isfinite().all())):
            weights = {f"model/{name}": value.detach() for name, value in self.model.state_dict().items()}
            batch = {"ids": rng.ids, "images": x, "labels": y, "examples": z, "losses": losses.detach(), **weights}
            raise NotFinite(f"the loss{f' of {self.name}' * (not self._alone)}", batch)


@contextmanager
def _same_draws(device: torch.device) -> Iterator[None]:
    """Yield what draws inside from torch's global generator, such as dropout, is drawn again afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield

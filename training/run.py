"""A training in memory: what it does at each step, and the state between two steps."""

import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from harness.data import Batch, Dataset
from harness.errors import UserError
from harness.rng import Rng
from training.augment import augment
from training.averaging import Average
from training.draws import seeded, shuffle
from training.history import Epoch, History, Kept
from training.passes import Passes
from training.recipe import Recipe
from training.selection import Scores


class Run:
    """A training of `model`, in place. Attributes epoch and batch: how many are done.

    Raises:
        UserError: there is nothing to train or to train on.
    """

    def __init__(self, model: nn.Module, dataset: Dataset, recipe: Recipe, seed: int, device: torch.device) -> None:
        self.model = model.to(device).train()
        self.recipe, self.seed, self.device = recipe, seed, device
        self._train, self._validation = dataset.split("train"), dataset.split("validation")
        self._ids = torch.as_tensor(self._train.ids)
        if len(self._ids) < 2:
            raise UserError(f"{dataset.name} has {len(self._ids)} training image; batch norm needs at least two")
        self._size = min(recipe.batch_size, len(self._ids))
        self._batches = len(self._ids) // self._size
        self._optimizer = recipe.make_optimizer(model)
        self._average = Average(model, recipe.ema) if recipe.ema else None
        self._best: tuple[int, Scores, dict[str, Tensor]] | None = None
        self.history = History()
        self.epoch = 0
        self.batch = self._forwards = self._backwards = 0
        self._seconds = 0.0
        self._loss = torch.zeros((), dtype=torch.float64, device=device)

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.recipe.epochs * self._batches

    @property
    def step(self) -> int:
        """Steps done."""
        return self.epoch * self._batches + self.batch

    @property
    def kept(self) -> nn.Module:
        """The network that is validated and kept."""
        return self._average.module if self._average else self.model

    def steps(self) -> Iterator[bool]:
        """Train to the end; yields after each step, True where that ended an epoch.

        Raises:
            UserError: loss or weights are NaN or infinite at the end of an epoch.
        """
        while self.epoch < self.recipe.epochs:
            started = time.monotonic() - self._seconds
            order = shuffle(self._ids, self.seed, self.epoch)
            while self.batch < self._batches:
                self._update(self._train.read(order[self.batch * self._size :][: self._size].tolist()))
                self.batch += 1
                self._seconds = time.monotonic() - started
                if self.batch < self._batches:
                    yield False
            self._end_epoch(started)
            yield True

    def best(self) -> nn.Module:
        """A copy of the network with the best weights so far."""
        assert self._best is not None, "no epoch is complete"
        module = deepcopy(self.kept)
        module.load_state_dict(self._best[2])
        return module

    def result(self) -> History:
        """The history with what the best and the last weights are worth, attacked in any case."""
        assert self._best is not None, "no epoch is complete"
        best = Kept(self._best[0], *self._measure(self.best(), attack=True))
        return History(self.history.epochs, best, Kept(self.epoch, *self._measure(self.kept, attack=True)))

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        best = self._best
        return {
            "position": [self.epoch, self.batch, self._forwards, self._backwards, self._seconds],
            "loss": self._loss,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": [self._average.updates, self._average.module.state_dict()] if self._average else None,
            "best": [best[0], list(best[1]), best[2]] if best else None,
            "epochs": [asdict(epoch) for epoch in self.history.epochs],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self.epoch, self.batch, self._forwards, self._backwards, self._seconds = state["position"]
        self._loss = state["loss"].to(self.device)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average:
            self._average.updates = state["average"][0]
            self._average.module.load_state_dict(state["average"][1])
        if state["best"]:
            epoch, scores, weights = state["best"]
            self._best = (epoch, Scores(*scores), weights)
        self.history = History([Epoch(**epoch) for epoch in state["epochs"]])

    def _update(self, batch: Batch) -> None:
        recipe = self.recipe
        rng = Rng(self.seed, batch.ids.to(self.device), f"train/{self.epoch}")
        x = augment(batch.x.to(self.device), rng.stream("augment"), crop=recipe.crop, flip=recipe.flip)
        y = batch.y.to(self.device)
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.rate(self.step, self.total)
        with seeded(self.seed, f"layers/{self.step}", self.device), Passes(self.model) as passes:
            losses = recipe.objective.loss(self.model, x, y, rng.stream("objective"))
            self._optimizer.zero_grad(set_to_none=True)
            losses.mean().backward()  # type: ignore[no-untyped-call]
        if recipe.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self._optimizer.step()
        if self._average:
            self._average.update(self.model)
        self._loss += losses.detach().double().sum()
        self._forwards, self._backwards = self._forwards + passes.forwards, self._backwards + passes.backwards

    def _end_epoch(self, started: float) -> None:
        self._check_finite()
        scores = self._measure(self.kept, attack=self.recipe.selection.by == "pgd")
        if self._best is None or self.recipe.selection.better(scores, self._best[1]):
            weights = {name: value.detach().cpu().clone() for name, value in self.kept.state_dict().items()}
            self._best = (self.epoch + 1, scores, weights)
        seen, rate = self._batches * self._size, self.recipe.rate(self.step - 1, self.total)
        spent = (self._forwards / seen, self._backwards / seen, time.monotonic() - started)
        self.epoch += 1
        self.history.epochs.append(Epoch(self.epoch, float(self._loss) / seen, rate, *scores, *spent))
        self.batch = self._forwards = self._backwards = 0
        self._seconds = 0.0
        self._loss.zero_()

    def _measure(self, module: nn.Module, *, attack: bool) -> Scores:
        classifier = self.recipe.objective.classifier(module).to(self.device)
        return self.recipe.selection.measure(classifier, self._validation, self.seed, self.device, attack=attack)

    def _check_finite(self) -> None:
        for name, value in self._numbers():
            if not bool(value.isfinite().all()):
                raise UserError(
                    f"training went to NaN or infinity in epoch {self.epoch + 1} ({name}); "
                    f"lower recipe.learning_rate (now {self.recipe.learning_rate}) or set recipe.clip=1"
                )

    def _numbers(self) -> Iterator[tuple[str, Tensor]]:
        yield "the loss", self._loss
        yield from self.model.state_dict().items()
        if self._average:
            yield from self._average.module.state_dict(prefix="average of ").items()
        for number, entry in self._optimizer.state_dict()["state"].items():
            for name, value in entry.items():
                if isinstance(value, Tensor):
                    yield f"{name} of weight {number}", value

"""A training in memory: what it does at each step, and the state between two steps."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gauntlet.data import Batch, Dataset
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.training.augmentation import augment
from gauntlet.training.batch_norm import estimating, synced
from gauntlet.training.distributed import ALONE, ProcessGroup
from gauntlet.training.finite_check import check_finite
from gauntlet.training.history import Epoch, History, Kept
from gauntlet.training.memory_order import fit_memory_order
from gauntlet.training.model_context import PassCounter, evaluating, forwarding, lowered, seeded, shuffle
from gauntlet.training.model_selection import CHUNK, Scores
from gauntlet.training.recipe import Recipe
from gauntlet.training.step import Player
from gauntlet.training.weight_averaging import Average, Averaged, Mean

ALARM = 0.2
"""Catastrophic overfitting: accuracy under one step and under many parts by more than this within one epoch."""


class TrainingRun:
    """A training of `model`, in place. Attributes epoch and batch: how many are done.

    Raises:
        UserError: there is nothing to train or to train on.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        processes: ProcessGroup = ALONE,
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        if begin := getattr(recipe.objective, "begin", None):  # an objective of one's own may lack it
            begin(model)
        if recipe.constraint:
            recipe.constraint.begin(model)
        self.model = model.to(device)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        shape = (dataset.channels, dataset.size, dataset.size)
        fit_memory_order(self.model, recipe.objective.classifier(self.model), shape, channels_last)
        self.model.train()
        self.recipe, self.seed, self.device, self.processes = recipe, seed, device, processes
        self._train, self._validation = dataset.split("train"), dataset.split("validation")
        if prepare := getattr(recipe.objective, "prepare", None):
            prepare(self.model, self._validation, seed, device)
        self._auxiliary: nn.Module | None = getattr(recipe.objective, "auxiliary", None)
        if compiled and self._auxiliary:
            raise UserError("runtime.compile=true fixes the layers of the network, which this recipe exchanges")
        self._ids = torch.as_tensor(self._train.ids)
        if len(self._ids) < 2:
            raise UserError(f"{dataset.name} has {len(self._ids)} training image; batch norm needs at least two")
        self._size = min(recipe.batch_size, len(self._ids))
        if self._size % processes.size:
            raise UserError(f"recipe.batch_size={self._size} must be a multiple of the {processes.size} processes")
        self._batches = len(self._ids) // self._size
        self._forward = torch.compile(self.model.forward) if compiled else None
        phases = recipe.alternation.weights(model) if recipe.alternation else [None]
        self._players = [Player(self.model, recipe, processes, phase) for phase in phases]
        self._average: Averaged | None = None
        if recipe.ema or recipe.swa:
            self._average = Average(model, recipe.ema) if recipe.ema else Mean(model)
        self._best: tuple[int, Scores, dict[str, Tensor]] | None = None
        self.history = History()
        self.epoch = 0
        self.batch = self._forwards = self._backwards = 0
        self._seconds = 0.0
        self._losses = torch.zeros(len(self._players), dtype=torch.float64, device=device)

    @property
    def total(self) -> int:
        """Return steps of the whole training."""
        return self.recipe.epochs * self._batches

    @property
    def step(self) -> int:
        """Return steps done."""
        return self.epoch * self._batches + self.batch

    @property
    def kept(self) -> nn.Module:
        """Return the network that is validated and kept: the average where there is one yet."""
        return self._average.module if self._average and self._average.updates else self.model

    def collect(self, folder: Path | None = None, progress: bool = False) -> None:
        """Have the objective make what it needs of the training images before the first step; folder: keeps it."""
        if make := getattr(self.recipe.objective, "collect", None):
            self._forwards, self._backwards = make(self._train, self.seed, self.device, folder, progress)

    def steps(self) -> Iterator[bool]:
        """Train to the end; yields after each step, True where that ended an epoch.

        Raises:
            NotFinite: the loss of a batch is NaN or infinite.
            UserError: weights are NaN or infinite at the end of an epoch.
        """
        while self.epoch < self.recipe.epochs:
            started = time.monotonic() - self._seconds
            order = shuffle(self._ids, self.seed, self.epoch)
            while self.batch < self._batches:
                members = self.processes.share(order[self.batch * self._size :][: self._size])
                self._update(self._train.read(members.tolist()))
                self.batch += 1
                self._seconds = time.monotonic() - started
                if self.batch < self._batches:
                    yield False
            self._end_epoch(started)
            yield True

    def best(self) -> nn.Module:
        """Return a copy of the network with the best weights so far."""
        assert self._best is not None, "no epoch is complete"
        module = deepcopy(self.kept)
        module.load_state_dict(self._best[2])
        return module

    def result(self) -> History:
        """Return the history with what the best and the last weights are worth, attacked in any case."""
        assert self._best is not None, "no epoch is complete"
        best = Kept(self._best[0], *self._measure(self.best(), attack=True))
        return History(self.history.epochs, best, Kept(self.epoch, *self._measure(self.kept, attack=True)))

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        best = self._best
        return {
            "position": [self.epoch, self.batch, self._forwards, self._backwards, self._seconds],
            "losses": self._losses,
            "model": self.model.state_dict(),
            "auxiliary": self._auxiliary.state_dict() if self._auxiliary else None,
            "optimizers": [player.optimizer.state_dict() for player in self._players],
            "memories": [player.weigher.memory for player in self._players],
            "average": [self._average.updates, self._average.module.state_dict()] if self._average else None,
            "best": [best[0], list(best[1]), best[2]] if best else None,
            "epochs": [asdict(epoch) for epoch in self.history.epochs],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self.epoch, self.batch, self._forwards, self._backwards, self._seconds = state["position"]
        self._losses = state["losses"].to(self.device)
        self.model.load_state_dict(state["model"])
        if self._auxiliary:
            self._auxiliary.load_state_dict(state["auxiliary"])
        for player, optimizer in zip(self._players, state["optimizers"], strict=True):
            player.optimizer.load_state_dict(optimizer)
        # States from before weightings had a memory lack it.
        for player, memory in zip(self._players, state.get("memories", []), strict=False):
            player.weigher.memory = {name: value.to(self.device) for name, value in memory.items()}
        if self._average:
            self._average.updates = state["average"][0]
            self._average.module.load_state_dict(state["average"][1])
        if state["best"]:
            epoch, scores, weights = state["best"]
            self._best = (epoch, Scores(*scores), weights)
        self.history = History([Epoch(**epoch) for epoch in state["epochs"]])

    def _prepared(self, batch: Batch, name: str) -> tuple[Tensor, Tensor, Rng]:
        """Augmented images, labels, and the draws of the samples."""
        rng = Rng(self.seed, batch.ids.to(self.device), name)
        x = augment(batch.x.to(self.device), rng.stream("augment"), crop=self.recipe.crop, flip=self.recipe.flip)
        return x.contiguous(memory_format=self._format), batch.y.to(self.device), rng

    def _update(self, batch: Batch) -> None:
        recipe, processes = self.recipe, self.processes
        x, y, rng = self._prepared(batch, f"train/{self.epoch}")
        share, progress = recipe.share(self.step, self.total), (self.step / self.total, self.epoch / recipe.epochs)
        layers = f"layers/{self.step}" + (f"/{processes.rank}" if processes.rank else "")
        with ExitStack() as around:
            around.enter_context(seeded(self.seed, layers, self.device))
            around.enter_context(synced(self.model, processes))
            if self._auxiliary:
                around.enter_context(synced(self._auxiliary, processes))
            if self._forward:
                around.enter_context(forwarding(self.model, self._forward))
            around.enter_context(lowered(self.model, recipe.precision, self.device))
            passes = around.enter_context(PassCounter(self.model, *getattr(recipe.objective, "companions", ())))
            found = [player(x, y, rng, share, progress).double().sum() for player in self._players]
        if isinstance(self._average, Average):
            self._average.update(self.model)
        if follow := getattr(recipe.objective, "follow", None):
            follow(self.model)
        self._losses += processes.sum(torch.stack(found))
        self._forwards += passes.forwards * processes.size
        self._backwards += passes.backwards * processes.size

    def _end_epoch(self, started: float) -> None:
        check_finite(self._losses, self.model, self._auxiliary, self._average, self._players)
        if self.recipe.swa and self.epoch + 1 > self.recipe.swa.start * self.recipe.epochs:
            assert self._average is not None
            self._average.update(self.model)
            self._estimate(self._average.module)
        recipe = self.recipe
        attack = recipe.selection.by == "pgd"
        scores = self._measure(self.kept, attack=attack)
        fgsm = self._single_step(self.kept) if attack else math.nan
        reached = self._best and recipe.reached((self._best[0] * self._batches - 1) / self.total)
        if self._best is None or not reached or recipe.selection.better(scores, self._best[1]):
            weights = {name: value.detach().cpu().clone() for name, value in self.kept.state_dict().items()}
            self._best = (self.epoch + 1, scores, weights)
        seen, rate = self._batches * self._size, self.recipe.rate(self.step - 1, self.total)
        losses = (self._losses / seen).tolist()
        spent = (self._forwards / seen, self._backwards / seen, time.monotonic() - started)
        overfitting, catastrophic = self._best[1].pgd - scores.pgd, self._catastrophic(fgsm - scores.pgd)
        self.epoch += 1
        line = Epoch(self.epoch, losses[0], rate, *scores, *spent)
        line = replace(line, fgsm=fgsm, overfitting=overfitting, catastrophic=catastrophic)
        self.history.epochs.append(replace(line, columns=self._columns(losses)))
        self.batch = self._forwards = self._backwards = 0
        self._seconds = 0.0
        self._losses.zero_()

    def _estimate(self, module: nn.Module) -> None:
        """New batch-norm statistics for an average of weights."""
        assert self.recipe.swa is not None
        objective, ids = self.recipe.objective, self._ids[: self.recipe.swa.limit]
        size = min(self._size, len(ids) // self.processes.size * self.processes.size)
        order = shuffle(ids, self.seed, self.epoch)[: len(ids) // size * size]
        with synced(module, self.processes), estimating(module):
            for members in torch.split(order, size):
                batch = self._train.read(self.processes.share(members).tolist())
                x, y, rng = self._prepared(batch, f"estimate/{self.epoch}")
                if self.recipe.swa.images == "clean":
                    objective.classifier(module)(x)
                else:
                    objective.losses(module, x, y, objective.examples(self.model, x, y, rng), rng)

    def _columns(self, losses: list[float]) -> dict[str, float]:
        """Return the columns of an alternation, and those of the model."""
        named = {f"loss/{player.name}": loss for player, loss in zip(self._players, losses, strict=True)}
        own = getattr(self.kept, "columns", None)
        found: dict[str, float] = {}
        if callable(own):
            with evaluating(self.kept), torch.no_grad():
                found = own(self._validation.read(slice(0, CHUNK)).x.to(self.device))
        if self.recipe.constraint:
            batch, classifier = self._validation.read(slice(0, CHUNK)), self._classifier(self.kept)
            with evaluating(classifier), torch.no_grad():
                found |= self.recipe.constraint.columns(classifier, batch.x.to(self.device), batch.y.to(self.device))
        if own := getattr(self.recipe.objective, "columns", None):
            found |= own()
        for player in self._players:
            found |= player.weigher.columns()
        return (named if self.recipe.alternation else {}) | found

    def _catastrophic(self, gap: float) -> bool:
        before = self.history.epochs[-1] if self.history.epochs else None
        return gap - (before.fgsm - before.pgd if before else 0.0) > ALARM

    def _classifier(self, module: nn.Module) -> nn.Module:
        return self.recipe.objective.classifier(module).to(self.device)

    def _measure(self, module: nn.Module, *, attack: bool) -> Scores:
        classifier, split = self._classifier(module), self._validation
        return self.recipe.selection.measure(
            classifier, split, self.seed, self.device, attack=attack, processes=self.processes
        )

    def _single_step(self, module: nn.Module) -> float:
        classifier, split = self._classifier(module), self._validation
        return self.recipe.selection.single_step(classifier, split, self.seed, self.device, self.processes)

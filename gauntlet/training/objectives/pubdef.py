"""PubDef: a network learns to stand the adversarial examples of public networks."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gauntlet.data.dataset import Split
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.metrics.nash_averaging import nash_average
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.training.augmentation import augment
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.model_context import evaluating
from gauntlet.training.objectives.objective import Objective
from gauntlet.training.transfer_examples import TransferExamples

GROUPS = ("normal", "linf", "l2", "corruption")


@dataclass(frozen=True)
class PubDefObjective(Knobs, Objective, key="recipe.objective"):
    """(CE(f(x), y) + CE(f(z), y)) / 2, z an example that was crafted against a source network, which is drawn anew for
    each image and epoch (PubDef; Sitawarin et al. 2024, arXiv 2310.17645).

    There is one source for each group of public networks. The network that learns is never attacked, and white-box
    attacks on it succeed by design.

    Args:
        attack: on the sources, before the training.
        normal, linf, l2, corruption: sources: trained on images as they are, against linf or l2 attacks, or on
            corrupted images; they come from the parts of these names; null: no such group.
        copies: examples of each image and source, >= 1. All are held in memory: n images of 3x32x32 pixels with four
            sources take 4 n copies x 12 kB.
        weights: how sources are drawn: uniform; or equilibrium: by the mixture of sources that is best for the trainer
            in the game in which an attacker chooses a source i, the trainer a source j, and the trainer is paid what
            they have in common: the share of the validation images whose examples for i fool j, and for j fool i.
        limit: validation images for that game, >= 1; null: all.
        crop, flip: augmentation, as for the recipe, where they must be off: an image and its example move alike.

    Raises:
        UserError: a value outside its range.
    """

    attack: InnerPGD
    normal: nn.Module | None = None
    linf: nn.Module | None = None
    l2: nn.Module | None = None
    corruption: nn.Module | None = None
    copies: int = knob(1, least=1)
    weights: str = choice("uniform", ("uniform", "equilibrium"))
    limit: int | None = knob(500, least=1, optional=True, hint="null uses all images")
    crop: int = knob(0, least=0, hint="pixels; 0 is off")
    flip: bool = False
    _held: list[TransferExamples] = field(default_factory=list, init=False, repr=False, compare=False)
    _mixture: list[float] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def sources(self) -> dict[str, nn.Module]:
        """Return the source of each group that has one."""
        return {name: source for name in GROUPS if (source := getattr(self, name)) is not None}

    def begin(self, model: nn.Module) -> None:
        """Refuse to train without sources, or one of them. Raises UserError."""
        if not self.sources:
            raise UserError("recipe=pubdef trains against source networks; use defense=pubdef, whose part uses them")
        self._held[:] = [TransferExamples(self.sources, self.attack, self.copies)]
        self._held[0].refuse(model)

    def prepare(self, model: nn.Module, split: Split, seed: int, device: torch.device) -> None:
        """Weigh the sources, by validation images. Raises UserError where one has other classes than the network."""
        count = len(split.ids) if self.limit is None else min(self.limit, len(split.ids))
        batch = split.read(list(range(count)))
        x, y, rng = batch.x.to(device), batch.y.to(device), Rng(seed, batch.ids.to(device), "transfer/game")
        classes = _answers(model, x[:2]).shape[1]
        for name, source in self.sources.items():
            if (found := _answers(source, x[:2]).shape[1]) != classes:
                raise UserError(
                    f"recipe.objective.{name} has {found} classes, and the network that is trained {classes}; take "
                    "sources of the same classes"
                )
        if self.weights == "uniform":
            self._mixture[:] = [1 / len(self.sources)] * len(self.sources)
            return
        rows = []
        for name, source in self.sources.items():
            z = self.attack(source, x, y, rng.stream(name))
            rows.append(torch.stack([_answers(other, z).argmax(1) != y for other in self.sources.values()]))
        fooled = torch.stack(rows)  # whether examples for the first fool the second, [sources, sources, images]
        common = (fooled & fooled.transpose(0, 1)).double().mean(2)
        self._mixture[:] = equilibrium(common.cpu().numpy()).tolist()

    def collect(
        self, split: Split, seed: int, device: torch.device, folder: Path | None, progress: bool
    ) -> tuple[int, int]:
        return self._held[0].fill(split, seed, device, folder, progress)

    def columns(self) -> dict[str, float]:
        """Return the weight of each source."""
        return {f"weight/{name}": share for name, share in zip(self.sources, self._mixture, strict=True)}

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        if factors is not None:
            raise UserError("recipe.weighting changes budgets, and the examples of recipe=pubdef are made before")
        source = self.drawn(rng)
        copy = rng.stream("copy").integers((1,), self.copies).squeeze(1)
        z = self._held[0].read(rng.ids, source, copy).to(x)
        if not bool(Threat(self.attack.norm, self.attack.eps).contains(z, x).all()):
            raise UserError(
                "an example of a source lies outside the ball of its image; set recipe.crop=0 and recipe.flip=false, "
                "and augment by recipe.objective.crop and recipe.objective.flip"
            )
        return z

    def drawn(self, rng: Rng) -> Tensor:
        """Return the number of a source for each sample, int64 [B], by their weights."""
        ends = torch.tensor(self._mixture, dtype=torch.float64).cumsum(0)[:-1]
        found: Tensor = torch.searchsorted(
            ends.to(rng.ids.device), rng.stream("source").uniform((1,), dtype=torch.float64).squeeze(1), right=True
        )
        return found

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        terms = self.terms(model, x, y, z, rng)
        return terms["clean"] + terms["attacked"]

    def terms(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> dict[str, Tensor]:
        """Return half of the cross-entropy on the images and half of that on the examples, [B] each."""
        found = {}
        for name, images in (("clean", x), ("attacked", z)):
            moved = augment(images, rng.stream("augment"), crop=self.crop, flip=self.flip)
            found[name] = F.cross_entropy(model(moved), y, reduction="none") / 2
        return found


def equilibrium(covered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the trainer's mixture of sources, of sum one; of several the most even one.

    covered: [trained on, attacked with], shares in [0, 1].
    """
    return nash_average(covered).systems


@torch.no_grad()
def _answers(network: nn.Module, x: Tensor) -> Tensor:
    with evaluating(network):
        logits: Tensor = network(x)
    return logits

"""How good a network is on the validation part; the test part is never read in training."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gauntlet.attacks.pgd import PGD
from gauntlet.data import Split
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.decision import misclassified
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, plain
from gauntlet.training.distributed import ALONE, ProcessGroup
from gauntlet.training.inner_attack import bounded
from gauntlet.training.model_context import evaluating, frozen

CHUNK = 256


class Scores(NamedTuple):
    """Shares of the validation images, in [0, 1]. pgd: right before and after the attack; NaN: not measured."""

    clean: float
    pgd: float


@dataclass(frozen=True, kw_only=True)
class Selection(Knobs, key="recipe.selection"):
    """Which epoch's weights are kept as the best.

    Args:
        by: pgd (robust accuracy; clean accuracy decides between equals) or clean. Of equals the last epoch wins.
        norm, eps: the threat of the attack.
        steps: of the attack, >= 1.
        step_size: as a multiple of eps, > 0.
        limit: use the first images of the part, >= 1; null uses them all.

    Raises:
        UserError: a value outside its range.
    """

    CHOICES: ClassVar[tuple[str, ...]] = ("pgd", "clean")

    by: str = choice("pgd", CHOICES)
    norm: str = "linf"
    eps: str | float
    steps: int = knob(10, least=1)
    step_size: float = knob(0.25, above=0, hint="a multiple of eps")
    limit: int | None = knob(1000, least=1, optional=True, hint="null uses all images")

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded("recipe.selection", self.norm, self.eps)

    def better(self, new: Scores, old: Scores) -> bool:
        """Return whether the later epoch takes the place of the earlier one."""
        if self.by == "clean":
            return new.clean >= old.clean
        return (new.pgd, new.clean) >= (old.pgd, old.clean)

    def measure(
        self,
        model: nn.Module,
        split: Split,
        seed: int,
        device: torch.device,
        *,
        attack: bool,
        processes: ProcessGroup = ALONE,
    ) -> Scores:
        """Return the accuracy in eval mode, with the same attack noise at every call; the network is left as it was."""
        pgd = PGD(steps=self.steps, step_size=self.step_size) if attack else None
        return self._measure(model, split, seed, device, pgd, processes)

    def single_step(
        self, model: nn.Module, split: Split, seed: int, device: torch.device, processes: ProcessGroup = ALONE
    ) -> float:
        """Return the share that stands one step of full length (FGSM); far above PGD, it tells of catastrophic
        overfitting.
        """
        return self._measure(model, split, seed, device, PGD(steps=1, step_size=1.0, random_start=False), processes).pgd

    def _measure(
        self,
        model: nn.Module,
        split: Split,
        seed: int,
        device: torch.device,
        attack: PGD | None,
        processes: ProcessGroup,
    ) -> Scores:
        ids = torch.as_tensor(split.ids)[: self.limit]
        order = ids.argsort()  # the counted head wants ascending ids
        counts = torch.zeros(2, dtype=torch.int64, device=device)  # right, and still right when attacked
        with evaluating(model), frozen(model):
            for chunk in torch.split(order[processes.rank :: processes.size], CHUNK):
                batch = split.read(chunk.tolist())
                rng = Rng(seed, batch.ids.to(device), "validation")
                verdicts = self._verdicts(model, batch.x.to(device), batch.y.to(device), rng, attack)
                counts += torch.stack([verdict.sum() for verdict in verdicts])
        clean, robust = processes.sum(counts).tolist()
        return Scores(clean / len(order), robust / len(order) if attack else math.nan)

    def _verdicts(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, attack: PGD | None) -> tuple[Tensor, Tensor]:
        """Return which samples are right [B], and which are still right when attacked [B]."""
        with torch.no_grad():
            right = ~misclassified(model(x), y)
        if attack is None:
            return right, right
        head = CountedHead(Head("true", plain(model), exact=True), plain(model), Counts.of(rng.ids))
        z = attack(head, x, y, threat=Threat(self.norm, self.eps), rng=rng)
        with torch.no_grad():
            return right, right & ~misclassified(model(z), y)

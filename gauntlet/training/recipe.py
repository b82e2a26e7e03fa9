"""How a network is trained, apart from the network, the data and the seed."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.training.alternating_updates import Alternation, Phase
from gauntlet.training.model_selection import Selection
from gauntlet.training.objectives.objective import Objective
from gauntlet.training.sample_weighting import Weighting
from gauntlet.training.weight_averaging import SWA
from gauntlet.training.weight_constraint import WeightConstraint
from gauntlet.training.weight_perturbation import WeightPerturbation

SHAPES = ("cosine", "step", "linear", "constant")


def factor(shape: str, progress: float, *, milestones: Sequence[float] = (), warmup: float = 0.0) -> float:
    """Return the multiple of the learning rate for the step that begins at `progress`.

    Args:
        shape: cosine or linear (from 1 to 0 after the warm-up), step (a tenth at each milestone) or constant. The
            cyclic rate of fast adversarial training (arXiv 2001.03994) is linear with a warm-up of a half.
        progress: share of all steps that are done, in [0, 1).
        milestones: shares in (0, 1).
        warmup: share of the steps over which the rate rises linearly, in [0, 1).
    """
    if progress < warmup:
        return progress / warmup
    if shape == "cosine":
        return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
    if shape == "linear":
        return (1 - progress) / (1 - warmup)
    if shape == "step":
        return 0.1 ** sum(progress >= milestone for milestone in milestones)
    return 1.0


@dataclass(frozen=True, kw_only=True)
class Recipe(Knobs, key="recipe"):
    """The settings of one training. What came after the first version is null where it is off: null leaves keys alone.

    Args:
        objective: what is minimized.
        epochs: >= 1.
        batch_size: >= 2. Images that do not fill a batch at the end of an epoch wait for the next shuffle.
        optimizer: sgd, nesterov (sgd with Nesterov momentum) or adamw.
        learning_rate: at the peak of the schedule, > 0.
        momentum: of sgd, in [0, 1).
        weight_decay: >= 0, on all parameters.
        schedule: cosine, step, linear or constant.
        milestones: of schedule=step: shares of the training, in (0, 1), after which the rate falls tenfold.
        warmup: share of the training over which the rate rises from zero, in [0, 1).
        ema: decay of the average of the weights that is validated and kept, in [0, 1); 0 is off.
        crop: pixels by which an image is shifted at random; 0 is off.
        flip: mirror half of the images.
        clip: largest gradient norm; 0 is off.
        weight_perturbation: an adversary of the weights (AWP, AMP, SAM, ASAM), or null.
        weighting: how much each sample counts, or null: all alike.
        swa: a uniform average of the weights of the last epochs, or null; not with ema.
        alternation: players that move parts of the weights in turn, or null: one that moves them all.
        constraint: a set that the weights stay in, such as factors of low rank, or null; not with ema or swa.
        precision: bfloat16 for the passes through the network, or null: that of the weights. Losses, weights and
            validation are never lowered.
        selection: which epoch is the best.

    Raises:
        UserError: a value outside its range.
    """

    OPTIMIZERS: ClassVar[tuple[str, ...]] = ("sgd", "nesterov", "adamw")

    objective: Objective
    epochs: int = knob(30, least=1)
    batch_size: int = knob(64, least=2, hint="batch norm needs two images")
    optimizer: str = choice("sgd", OPTIMIZERS)
    learning_rate: float = knob(0.1, above=0)
    momentum: float = knob(0.9, least=0, below=1)
    weight_decay: float = knob(5e-4, least=0)
    schedule: str = choice("cosine", SHAPES)
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])
    warmup: float = knob(0.0, least=0, below=1)
    ema: float = knob(0.0, least=0, below=1, hint="0 is off")
    crop: int = knob(0, least=0, hint="pixels; 0 is off")
    flip: bool = False
    clip: float = knob(0.0, least=0, hint="0 is off")
    weight_perturbation: WeightPerturbation | None = None
    weighting: Weighting | None = None
    swa: SWA | None = None
    alternation: Alternation | None = None
    constraint: WeightConstraint | None = None
    precision: str | None = choice(None, ("bfloat16",), optional=True)
    selection: Selection

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(isinstance(share, float | int) and 0 < share < 1 for share in self.milestones):
            raise UserError(f"recipe.milestones={self.milestones} must be shares between 0 and 1, such as [0.5,0.75]")
        if self.ema and self.swa:
            raise UserError("recipe.ema and recipe.swa are two averages of one network; set ema=0 or swa=null")
        if self.constraint and (self.ema or self.swa):
            raise UserError("recipe.constraint does not hold for an average of weights; set recipe.ema=0 and swa=null")
        for method in ("examples", "losses", "classifier"):
            if not callable(getattr(self.objective, method, None)):
                raise UserError(f"recipe.objective has no {method}(); see `Your own objective` in docs/training.md")

    def reached(self, progress: float) -> bool:
        """Return whether the constraint holds after a step that began at that share of the training."""
        return self.constraint is None or self.constraint.reached(progress)

    def make_optimizer(self, weights: Iterable[nn.Parameter], phase: Phase | None = None) -> torch.optim.Optimizer:
        """Return the optimizer of the weights that take part, with the settings of the phase. UserError where none
        does.
        """
        weights = [weight for weight in weights if weight.requires_grad]
        if not weights:
            raise UserError("the model has no weights to train; check the model, or load it with checkpoint=included")
        rate, momentum, decay = (
            mine if (own := getattr(phase, name, None)) is None else own
            for name, mine in (
                ("learning_rate", self.learning_rate),
                ("momentum", self.momentum),
                ("weight_decay", self.weight_decay),
            )
        )
        if self.optimizer == "adamw":
            return torch.optim.AdamW(weights, lr=rate, weight_decay=decay)
        nesterov = self.optimizer == "nesterov" and momentum > 0
        return torch.optim.SGD(weights, lr=rate, momentum=momentum, weight_decay=decay, nesterov=nesterov)

    def share(self, step: int, total: int) -> float:
        """Return the share of the peak learning rate at step number `step` of `total`."""
        return factor(self.schedule, step / total, milestones=self.milestones, warmup=self.warmup)

    def rate(self, step: int, total: int) -> float:
        """Return the learning rate of step number `step` of `total`."""
        return self.learning_rate * self.share(step, total)

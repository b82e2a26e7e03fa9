"""The two trainings of a multi-resolution self-ensemble: a backbone on random stacks, then probes on what it sees."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.feature_taps import Tapped
from gauntlet.models.linear_probes import Behind, Probes
from gauntlet.threat_model.rng import Rng
from gauntlet.training.model_context import evaluating
from gauntlet.training.objectives.multi_resolution import ResolutionStack
from gauntlet.training.objectives.objective import InnerAttack, Objective
from gauntlet.training.objectives.self_ensemble import Stacked, summed


@dataclass(frozen=True)
class StackTuning(Objective):
    """Cross-entropy of the backbone on one random stack (Fort and Lakshminarayanan 2024, arXiv 2408.05446).

    Args:
        stack: how images are stacked, as deployed.
        attack: light adversarial training: the loss is that of attacked images. It sees one stack of each image in all
            of its steps, and the loss another. null: the images as they are.
    """

    stack: ResolutionStack = field(default_factory=ResolutionStack)
    attack: InnerAttack | None = None

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        if self.attack is None:
            return x
        return self.attack(_Seen(model, self.stack, rng.stream("attacked")), x, y, rng.stream("attack"), factors)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        return F.cross_entropy(model(self.stack(z, rng.stream("stack"))), y, reduction="none")

    def classifier(self, model: nn.Module) -> nn.Module:
        return Stacked(model, self.stack)


@dataclass(frozen=True)
class Probing(Objective):
    """Sum over probes of the cross-entropy on one random stack, behind a backbone that stays as it is: in eval mode,
    so that its batch-norm statistics do not drift. (The released code leaves it in training mode.)

    Args:
        backbone: the trained backbone, passed in by the part that trains.
        stack: how images are stacked, as deployed.

    Raises:
        UserError: no backbone.
    """

    backbone: nn.Module
    stack: ResolutionStack = field(default_factory=ResolutionStack)

    def __post_init__(self) -> None:
        if self.backbone is None:
            raise UserError("these are probes on a backbone; run.py defense=crossmax_self_cifar trains both")

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        tapped = Tapped(self.backbone, _probes(model).taps)
        with torch.no_grad(), evaluating(tapped):
            _, features = tapped(self.stack(z, rng.stream("stack")))
        return summed(model(features), y)

    def classifier(self, model: nn.Module) -> nn.Module:
        return Stacked(Behind(self.backbone, _probes(model)), self.stack)


class _Seen(nn.Module):
    """A backbone that sees the stacks of one draw."""

    def __init__(self, backbone: nn.Module, stack: ResolutionStack, rng: Rng) -> None:
        super().__init__()
        self.backbone, self.stack, self.rng = backbone, stack, rng

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.backbone(self.stack(x, self.rng))
        return logits


def _probes(model: nn.Module) -> Probes:
    if not isinstance(model, Probes):
        raise UserError(f"objective=Probing trains gauntlet.models.linear_probes.Probes, not {type(model).__name__}")
    return model

"""RiFT: a robust network goes on with clean images, in its least critical module alone."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.data.dataset import Split
from gauntlet.errors import UserError
from gauntlet.models.weight_arithmetic import module_named
from gauntlet.threat_model.rng import Rng
from gauntlet.training.model_context import evaluating
from gauntlet.training.module_criticality import Criticality, layers, least_critical
from gauntlet.training.objectives.objective import InnerAttack, Objective


@dataclass(frozen=True)
class RiFT(Objective):
    """Cross-entropy on images, with gradient to one module of a network that was robust before (Zhu et al. 2023, arXiv
    2308.02533).

    The module is the least critical one on validation images, where the released code takes the test images. Batch norm
    keeps its statistics, so that only that module changes; the released code moves them all. `gauntlet.defenses.rift`
    then goes a part of the way.

    Args:
        attack: on the robust network, for the examples on which a module is critical.
        criticality: how that is measured.
        module: dotted name of the module that is tuned; null: the least critical convolution or linear layer.
        robust: the robust network, frozen; it comes from the part of this name.
    """

    attack: InnerAttack
    criticality: Criticality = field(default_factory=Criticality)
    module: str | None = None
    robust: nn.Module | None = None

    def begin(self, model: nn.Module) -> None:
        """Give the network the weights of the robust one. Raises UserError where there is none, or another."""
        if self.robust is None:
            raise UserError("recipe=rift goes on with a robust network; use defense=rift, whose part uses: [robust]")
        try:
            model.load_state_dict(self.robust.state_dict())
        except RuntimeError as cause:
            raise UserError("RiFT goes on with the robust network; give both parts one model") from cause

    def prepare(self, model: nn.Module, split: Split, seed: int, device: torch.device) -> None:
        """Take the gradients from all weights but those of the module. Raises UserError where there is no such one."""
        name = self.module or least_critical(self.measured(model, split, seed, device))
        chosen = module_named(model, name, "recipe.objective.module")
        for weight in model.parameters():
            weight.requires_grad_(False)
        for weight in chosen.parameters():
            weight.requires_grad_()

    def measured(self, model: nn.Module, split: Split, seed: int, device: torch.device) -> dict[str, float]:
        """Return the criticality of each convolution and linear layer, by name."""
        z, y = self.criticality.examples(model, self.attack, split, seed, device)
        return {name: self.criticality(model, module, z, y) for name, module in layers(model)}

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        with evaluating(model):
            return F.cross_entropy(model(x), y, reduction="none")

"""AdvProp and ConAdv: images and adversarial examples through one network, each with batch norms of their own."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.data.dataset import Split
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.training.auxiliary_norms import AuxiliaryNorms, switched
from gauntlet.training.model_context import frozen
from gauntlet.training.objectives.objective import InnerAttack, Objective


@dataclass(frozen=True)
class AdvPropObjective(Knobs, Objective, key="recipe.objective"):
    """CE(f(x), y) + CE(f'(z), y), f' the same network with auxiliary batch norms, z an attack on f' (AdvProp; Xie et
    al. 2020, arXiv 1911.09665). f is what is validated and kept.

    With a lag, z is an attack on f' as it was so many steps ago, so that the examples of a step need not wait for the
    step before (ConAdv; Liu et al. 2021, arXiv 2106.00221); here they are made one after the other all the same.

    Args:
        attack: how z is found.
        lag: in steps of the optimizer, >= 0; ConAdv: 1.

    Raises:
        UserError: a value outside its range.
    """

    attack: InnerAttack
    lag: int = knob(0, least=0)
    _held: list[AuxiliaryNorms] = field(default_factory=list, init=False, repr=False, compare=False)

    def prepare(self, model: nn.Module, split: Split, seed: int, device: torch.device) -> None:
        """Begin the auxiliary batch norms. Raises UserError where the network has none to copy."""
        self._held[:] = [AuxiliaryNorms(model, self.lag)]

    @property
    def auxiliary(self) -> AuxiliaryNorms:
        """Return the auxiliary batch norms. Raises UserError in a phase of an alternation, which prepares none."""
        if not self._held:
            raise UserError("auxiliary batch norms go with one player alone; make this the recipe's objective")
        return self._held[0]

    @property
    def companions(self) -> tuple[nn.Module, ...]:
        """Return the network of the past that is attacked, whose passes are part of the price."""
        past = self.auxiliary.past
        return (next(past[0].children()),) if len(past) else ()

    def follow(self, model: nn.Module) -> None:
        self.auxiliary.follow(model)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        network, norms = self.auxiliary.attacked(model)
        with switched(network, norms), frozen(self.auxiliary):
            return self.attack(network, x, y, rng.stream("attack"), factors)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        terms = self.terms(model, x, y, z, rng)
        return terms["clean"] + terms["attacked"]

    def terms(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> dict[str, Tensor]:
        """Return the cross-entropies on the images and on the examples, [B] each."""
        clean = F.cross_entropy(model(x), y, reduction="none")
        with switched(model, self.auxiliary.norms):
            return {"clean": clean, "attacked": F.cross_entropy(model(z), y, reduction="none")}

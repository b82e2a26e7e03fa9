"""BARRE: the members of a randomized ensemble one after the other, each against the ensemble so far."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.objectives.objective import Objective


@dataclass(frozen=True)
class Boosted(Objective):
    """Cross-entropy on examples that were crafted against another network (BAT; Pinot et al. 2020, arXiv 2002.11565).

    The network that learns is not attacked: it answers where the first one is fooled, and is worth nothing by itself.

    Args:
        attack: how examples are found, against the first network.
        first: that network, frozen; it comes from the part of this name.
    """

    attack: InnerPGD
    first: nn.Module | None = None

    @property
    def companions(self) -> tuple[nn.Module, ...]:
        """Return the first network, whose passes are part of the price."""
        return () if self.first is None else (self.first,)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        if self.first is None:
            raise UserError("recipe=bat trains the second member of defense=bat; its part needs uses: [first]")
        return self.attack(self.first, x, y, rng.stream("attack"), factors)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        return F.cross_entropy(model(z), y, reduction="none")


@dataclass(frozen=True, kw_only=True)
class HalfStartPGD(InnerPGD):
    """`InnerPGD` from a random point of half the ball, as the released code of BARRE begins.

    Args:
        norm, eps, steps, step_size, init, loss, bn_mode: as for `InnerPGD`; init must be uniform.
        evenness: weight >= 0 of MCE (see `BARRE`) beside the cross-entropy in what the steps ascend; null: 0. The
            released code has that of the loss there too.

    Raises:
        UserError: a value outside its range.
    """

    evenness: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init != "uniform":
            raise UserError(f"attack.init={self.init}: this attack begins in half the ball; leave init at uniform")
        if self.evenness is not None and not 0 <= self.evenness < math.inf:
            raise UserError(f"attack.evenness={self.evenness} must be zero or a positive number")
        if self.evenness and self.loss != "ce":
            raise UserError(f"attack.evenness goes with attack.loss=ce, not {self.loss}")

    def _start(self, x: Tensor, threat: Threat, rng: Rng) -> Tensor:
        return x + (super()._start(x, threat, rng) - x) / 2

    def _gradient(self, model: nn.Module, z: Tensor, y: Tensor, reference: Tensor | None) -> Tensor:
        if not self.evenness:
            return super()._gradient(model, z, y, reference)
        leaf = z.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(leaf)
            ascended = F.cross_entropy(logits, y, reduction="none") + self.evenness * evenness(logits, y)
        (gradient,) = torch.autograd.grad(ascended.sum(), leaf)
        return gradient


@dataclass(frozen=True)
class BARREObjective(Knobs, Objective, key="recipe.objective"):
    """CE + weight * MCE of the member that learns, on examples against all members so far with equal probabilities.

    Dbouk and Shanbhag 2023, arXiv 2302.01375. The examples ascend the cross-entropy of the mean softmax. A member
    begins with the weights of the one before it. MCE is the mean over the wrong classes j of -log softmax(-f)_j, which
    evens out what is wrong. The defaults are those of the released code, without MCE; its Table 1 was trained with
    weight 1, on examples that ascend CE + MCE of the mean softmax: recipe=barre_table1.

    The probabilities stay equal while training: `gauntlet calibrate ensemble` finds better ones afterwards,
    where the authors also move them within, from four members on. An epoch is judged by the mean softmax under PGD,
    on validation images, where they take the best on the test images.

    Args:
        attack: how examples are found.
        first, second, third, fourth: the frozen members so far; they come from the parts of the same names.
        weight: of MCE, >= 0.

    Raises:
        UserError: a negative weight.
    """

    attack: InnerPGD
    first: nn.Module | None = None
    second: nn.Module | None = None
    third: nn.Module | None = None
    fourth: nn.Module | None = None
    weight: float = knob(0.0, least=0)

    @property
    def companions(self) -> tuple[nn.Module, ...]:
        """Return the members so far, whose passes are part of the price."""
        return tuple(one for one in (self.first, self.second, self.third, self.fourth) if one is not None)

    def begin(self, model: nn.Module) -> None:
        """Give the member the weights of the last one. Raises UserError where the architectures differ."""
        if self.companions:
            try:
                model.load_state_dict(self.companions[-1].state_dict())
            except RuntimeError as cause:
                raise UserError("a member of BARRE begins with the weights of the last; give all one model") from cause

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        return self.attack(self.classifier(model), x, y, rng.stream("attack"), factors)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        logits = model(z)
        losses = F.cross_entropy(logits, y, reduction="none")
        return losses + self.weight * evenness(logits, y) if self.weight else losses

    def classifier(self, model: nn.Module) -> nn.Module:
        return MeanSoftmax([*self.companions, model])


class MeanSoftmax(nn.Module):
    """The log of the mean softmax of several networks."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        each = torch.stack([network(x).log_softmax(1) for network in self.networks])
        return each.logsumexp(0) - math.log(len(each))


def evenness(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean over the classes j other than y of -log softmax(-logits)_j, [B]."""
    cross_entropies = -(-logits).log_softmax(1)
    return (cross_entropies.sum(1) - cross_entropies.gather(1, y[:, None]).squeeze(1)) / (logits.shape[1] - 1)

"""What training minimizes, per sample: the loop reduces once, at the end, so that weights fit every objective."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.data.dataset import Split
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.training.inner_attack import InnerPGD


class InnerAttack(Protocol):
    """The attack inside a training step, such as `gauntlet.training.inner_attack.InnerPGD`."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        """Return examples like x [B, C, H, W], detached; the network stays as it was. factors: multiples of eps [B]."""


class Objective(Protocol):
    """A training objective in two halves, because one batch of examples may be judged under several weights.

    A subclass overrides `losses`, and `examples` where it has an attack; one whose loss has parts that a weighting may
    choose from also has `terms(model, x, y, z, rng) -> dict[str, Tensor]`, whose sum is `losses`. x: float [B, C, H, W]
    in [0, 1]; y: int64 [B]; rng: keyed by sample id and epoch, the only source of randomness; both halves get the same
    one.
    """

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        """Return what to train on instead of x: crafted once a step against the weights as they are, and detached.

        factors: multiples of the budget per sample, float [B].
        """
        return x

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        """Return the loss of each sample [B], with gradient to the weights; never reduced. z: the examples."""
        raise NotImplementedError

    def classifier(self, model: nn.Module) -> nn.Module:
        """Return the map from images to logits that is deployed, for validation."""
        return model

    def begin(self, model: nn.Module) -> None:
        """Change the first weights of the network in place, before the first step."""

    def prepare(self, model: nn.Module, split: Split, seed: int, device: torch.device) -> None:
        """Choose which weights take part, by `requires_grad`, before the first step. split: validation images."""

    def collect(
        self, split: Split, seed: int, device: torch.device, folder: Path | None, progress: bool
    ) -> tuple[int, int]:
        """Make what is needed of the training images, split, before the first step; files of it go to `folder`.

        Returns:
            Samples that went forwards and backwards through networks for it.
        """
        return 0, 0

    def columns(self) -> dict[str, float]:
        """Return numbers for the line of an epoch, by name."""
        return {}

    @property
    def auxiliary(self) -> nn.Module | None:
        """Return what trains along with the network and is not deployed, after `prepare`; it is part of the state."""
        return None

    def follow(self, model: nn.Module) -> None:
        """Take note of the weights after a step."""

    @property
    def companions(self) -> tuple[nn.Module, ...]:
        """Frozen networks whose passes count as those of this training."""
        return ()

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng) -> Tensor:
        """Return both halves at once, [B]."""
        return self.losses(model, x, y, self.examples(model, x, y, rng), rng)


@dataclass(frozen=True)
class Standard(Objective):
    """Cross-entropy on the images as they are."""

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        return F.cross_entropy(model(x), y, reduction="none")


@dataclass(frozen=True)
class PGDAT(Objective):
    """Cross-entropy on adversarial examples only (Madry et al. 2018, arXiv 1706.06083).

    Args:
        attack: how they are found. One step makes it fast adversarial training (Wong et al. 2020, arXiv 2001.03994).
    """

    attack: InnerAttack

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        return self.attack(model, x, y, rng.stream("attack"), factors)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        return F.cross_entropy(model(z), y, reduction="none")


@dataclass(frozen=True)
class TRADESObjective(Knobs, Objective, key="recipe.objective"):
    """CE(f(x), y) + beta KL(p(x) || p(z)), z by an attack on the divergence (Zhang et al. 2019, arXiv 1901.08573).

    The gradient goes through both arguments of the divergence.

    Args:
        attack: how z is found; its loss is kl in the paper.
        beta: weight of the divergence, >= 0; 0 is standard training, without an attack.
    """

    attack: InnerPGD
    beta: float = knob(6.0, least=0)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        return self.attack(model, x, y, rng.stream("attack"), factors) if self.beta else x

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        terms = self.terms(model, x, y, z, rng)
        return terms["clean"] + terms["attacked"] if self.beta else terms["clean"]

    def terms(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> dict[str, Tensor]:
        """Return the cross-entropy and the divergence times beta, [B] each."""
        clean = model(x)
        found = {"clean": F.cross_entropy(clean, y, reduction="none")}
        return found | {"attacked": self.beta * divergence(clean, model(z))} if self.beta else found


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(softmax p || softmax q) of logits [B, K], per sample [B]; finite, as its gradients, for any gap."""
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)

"""Training of mixtures of experts: the two players of AdvMoE, and what it is compared with.

Zhang et al., "Robust mixture-of-expert training for convolutional neural networks", ICCV 2023 (arXiv 2308.10110).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.models.moe import MixtureOfExperts
from gauntlet.threat_model.rng import Rng
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.objectives.objective import Objective, TRADESObjective, divergence


@dataclass(frozen=True, kw_only=True)
class RouterPGD(InnerPGD):
    """Examples that change what a mixture says and how it routes: ascends KL(p(x) || p(z)) + weight KL(r(x) || r(z)).

    p are the probabilities of the classes, r those of the experts; the gradient of p flows straight through the choice
    of the router. Against one expert, or without a router, this is the attack of TRADES.

    Args:
        norm, eps, steps, step_size, init, bn_mode: as for `InnerPGD`; the defaults are those of the paper.
        loss: kl only.
        weight: of the divergence of the router, >= 0.

    Raises:
        UserError: a value outside its range.
    """

    steps: int = 2
    step_size: float = 0.625
    init: str = "normal"
    loss: str = "kl"
    weight: float = knob(1.0, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss != "kl":
            raise UserError(f"attack.loss={self.loss}: the attack on a router ascends divergences; set attack.loss=kl")

    @torch.no_grad()
    def _reference(self, model: nn.Module, x: Tensor) -> Tensor:
        mixture = _mixture(model)
        scores = mixture.scores(x)
        return torch.cat([model(x, scores).softmax(1), scores.softmax(1)], 1)

    def _gradient(self, model: nn.Module, z: Tensor, y: Tensor, reference: Tensor | None) -> Tensor:
        assert reference is not None
        leaf = z.detach().requires_grad_()
        with torch.enable_grad():
            scores = _mixture(model).scores(leaf)
            logits = model(leaf, scores)
        # The gradient of KL(p || q) by the logits of q is q - p; one scale for both keeps their proportion.
        both = torch.cat([logits.detach().softmax(1), scores.detach().softmax(1)], 1) - reference
        both = both / both.abs().sum(1, keepdim=True).clamp_min(torch.finfo(both.dtype).tiny)
        pulls = (both[:, : logits.shape[1]], self.weight * both[:, logits.shape[1] :])
        if not scores.requires_grad:
            return torch.autograd.grad(logits, leaf, pulls[0])[0]
        return torch.autograd.grad((logits, scores), leaf, pulls)[0]


@dataclass(frozen=True)
class MoETRADES(TRADESObjective):
    """TRADES on a mixture of experts, by one of three kinds of route.

    Args:
        attack: how examples are found; with route=router the paper's is `RouterPGD`.
        beta: weight of the divergence, >= 0.
        route: router: as deployed; the router is a constant, so that only experts learn (the first player of AdvMoE).
            through: the gradient flows straight through the choice, so that the router learns the same loss (the
            vanilla adversarial training of a mixture). label: expert y mod E, an oracle that knows the label.

    Raises:
        UserError: a value outside its range.
    """

    route: str = choice("router", ("router", "through", "label"))

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        return super().examples(self._seen(model, y), x, y, rng, factors)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        return super().losses(self._seen(model, y), x, y, z, rng)

    def _seen(self, model: nn.Module, y: Tensor) -> nn.Module:
        mixture = _mixture(model)
        if self.route == "through":
            return _Through(mixture)
        return _ByLabel(mixture, y) if self.route == "label" else model


@dataclass(frozen=True)
class Routing(Knobs, Objective, key="recipe.objective"):
    """The second player of AdvMoE: alpha T(s, y) + beta KL(r(x) || r(z)), of the scores s of the router alone.

    Both arguments of the divergence have a gradient, which is finite for any gap of the scores.

    Args:
        attack: how z is found, against the experts as the first player left them.
        alpha: weight of T, >= 0.
        beta: weight of the divergence, >= 0.
        target: T. label_mod: cross-entropy to the expert y mod E, as the published code has it, which makes the router
            a classifier of the label's remainder. balance: H(r(x)) - H(mean of r over the batch), so that each choice
            is sure and all experts have work (of several processes each takes the mean over its share). none: 0.

    Raises:
        UserError: a value outside its range.
    """

    attack: RouterPGD
    alpha: float = knob(6.0, least=0)
    beta: float = knob(6.0, least=0)
    target: str = choice("label_mod", ("label_mod", "balance", "none"))

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        return self.attack(model, x, y, rng.stream("attack"), factors) if self.beta else x

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        mixture = _mixture(model)
        clean = mixture.scores(x)
        losses = self.alpha * self._target(clean, y)
        return losses + self.beta * divergence(clean, mixture.scores(z)) if self.beta else losses

    def _target(self, scores: Tensor, y: Tensor) -> Tensor:
        if self.target == "label_mod":
            return F.cross_entropy(scores, y % scores.shape[1], reduction="none")
        if self.target == "balance":
            log_r = scores.log_softmax(1)
            mean = log_r.exp().mean(0)
            spread = -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()
            return -(log_r.exp() * log_r).sum(1) - spread
        return 0 * scores.sum(1)


class _Through(nn.Module):
    """The mixture with a gradient through its router."""

    def __init__(self, mixture: MixtureOfExperts) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(self, x: Tensor) -> Tensor:
        return self.mixture.straight_through(x)


class _ByLabel(nn.Module):
    """The mixture where image i takes pathway y[i] mod E."""

    def __init__(self, mixture: MixtureOfExperts, y: Tensor) -> None:
        super().__init__()
        self.mixture, self.y = mixture, y

    def forward(self, x: Tensor) -> Tensor:
        return self.mixture.along(x, self.y % self.mixture.experts)


def _mixture(model: nn.Module) -> MixtureOfExperts:
    if not isinstance(model, MixtureOfExperts):
        raise UserError(
            f"the recipe trains a mixture of experts, not {type(model).__name__}; choose model=moe_small_cnn or another"
        )
    return model

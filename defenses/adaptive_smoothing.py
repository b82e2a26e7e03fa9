"""Adaptive smoothing: a network decides, image by image, how an accurate and a robust classifier are mixed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from gauntlet.certification.certifiable import Blend
from gauntlet.defenses.base import Card, Defense
from gauntlet.defenses.mixing import mixed
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.models.feature_taps import Tapped
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, Victim, plain
from gauntlet.training.model_context import evaluating
from gauntlet.training.objectives.objective import Objective


class Composite(nn.Module):
    """The two base networks, whose features the mixing network sees, and the mixture.

    Args:
        accurate, robust: networks with named children to tap.
        network: gauntlet.models.mixing_network.MixingNetwork.
        taps: names of the early and the late layer of the accurate and of the robust network.
    """

    def __init__(
        self, accurate: nn.Module, robust: nn.Module, network: nn.Module, taps: tuple[tuple[str, str], tuple[str, str]]
    ) -> None:
        super().__init__()
        self.accurate, self.robust = Tapped(accurate, taps[0]), Tapped(robust, taps[1])
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of the accurate network, of the robust network, and gamma [B]."""
        left, (early_left, late_left) = self.accurate(x)
        right, (early_right, late_right) = self.robust(x)
        gamma: Tensor = self.network((early_left, early_right), (late_left, late_right))
        return left, right, gamma


@dataclass(frozen=True)
class AdaptiveSmoothing(Defense):
    """(1 - a) softmax(s_g g(x)) + a softmax(s_h h(x)) with a = low + (high - low) sigmoid(scale gamma(x) + bias).

    From Bai et al., "Improving the accuracy-robustness trade-off of classifiers via adaptive smoothing", arXiv
    2301.12554. The mixing network is attacked with everything else: the true head differentiates through it, and the
    surrogates aim at it alone, at each base network, and at the mixture with the least alpha that fooling it can buy.

    Args:
        parts: "accurate", "robust" and "mixer".
        accurate_scale, robust_scale: inverse temperatures s_g, s_h > 0 of the base networks.
        alpha_low, alpha_high: range of alpha(x); 0.5 <= alpha_low < alpha_high <= 1.
        gamma_scale, gamma_bias: of the normalized output of the mixing network.
        taps: names of the early and late layers that the mixing network sees, of the accurate and the robust network.

    Raises:
        UserError: a value outside its range, or parts of other names.
    """

    card: ClassVar[Card] = Card(
        "A mixture of an accurate and a robust network whose weight a third network chooses for each image.",
        source="Bai et al. 2024, arXiv 2301.12554",
        claim="white-box attacks within the norm ball of its training, aware of the mixing network",
        forwards=2.2,
        certificate="certifier=mixing_bounds, linf and l2",
        differs="the mixing network is trained on one copy of each image, attacked by PGD on the margin (10 steps by "
        "default); the authors' on one copy by APGD on the cross-entropy and nine by targeted APGD on DLR, of about 75 "
        "steps, with nine more clean images each",
    )

    names: ClassVar[tuple[str, ...]] = ("accurate", "robust", "mixer")

    accurate_scale: float = knob(1.0, above=0, hint="it multiplies the logits of a base model")
    robust_scale: float = knob(1.0, above=0, hint="it multiplies the logits of a base model")
    alpha_low: float = knob(0.84, least=0.5, most=1)
    alpha_high: float = knob(0.99, least=0.5, most=1)
    gamma_scale: float = knob(2.0, above=0, hint="it multiplies the logits of a base model")
    gamma_bias: float = 1.3
    taps: list[list[str]] = field(default_factory=lambda: [["stem", "layer1"], ["stem", "layer1"]])

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_taps("defense.taps", self.taps)
        if not self.alpha_low < self.alpha_high:
            raise UserError(f"defense.alpha_low={self.alpha_low} must be below defense.alpha_high={self.alpha_high}")

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        left, right = ((names[0], names[1]) for names in self.taps)
        composite = Composite(models["accurate"], models["robust"], models["mixer"], (left, right)).eval()

        def weigh(gamma: Tensor) -> Tensor:
            share = torch.sigmoid(self.gamma_scale * gamma + self.gamma_bias)
            return self.alpha_low + (self.alpha_high - self.alpha_low) * share

        def predict(x: Tensor, rng: Rng) -> Tensor:
            accurate, robust, gamma = composite(x)
            return mixed(self.accurate_scale * accurate, self.robust_scale * robust, weigh(gamma))

        def least_alpha(x: Tensor, rng: Rng) -> Tensor:
            left, right = models["accurate"](x), models["robust"](x)
            return mixed(self.accurate_scale * left, self.robust_scale * right, self.alpha_low)

        def gamma_only(x: Tensor, rng: Rng) -> Tensor:
            # gamma sits on the predicted class: what lowers that class lowers the trust in the robust model.
            accurate, robust, gamma = composite(x)
            scores = mixed(self.accurate_scale * accurate, self.robust_scale * robust, weigh(gamma)).detach()
            chosen: Tensor = nn.functional.one_hot(scores.argmax(1), scores.shape[1])
            placed: Tensor = chosen * gamma[:, None]
            return placed

        surrogates = (
            Head("robust", plain(models["robust"])),
            Head("least_alpha", least_alpha),
            Head("accurate", plain(models["accurate"])),
            Head("gamma", gamma_only),
        )
        blend = Blend(models["robust"], self.alpha_low, self.robust_scale)
        return Victim(predict, tuple(models.values()), surrogates, mechanism=blend)


@dataclass(frozen=True)
class AdaptiveSmoothingObjective(Knobs, Objective, key="recipe.objective"):
    """Trains the mixing network between two frozen base networks (arXiv 2301.12554).

    Per image: detection * BCE(gamma, s) + classification * CE(mixture, y) + product * BCE * CE, with s = 0 on clean and
    s = 1 on attacked images; the loss of a sample is the mean of its clean and its attacked copy. The attack is drawn
    per sample: eps times U(0.4, 1.1), a share w ~ U(0, 0.4) of its objective on deceiving the mixing network and the
    rest on the margin of the mixture, untargeted or to one of the other classes.

    That attack is not the published one: there each batch has an untargeted copy by APGD on the cross-entropy and nine
    targeted ones by APGD on the DLR loss, with a number of steps drawn from a chi-square law of 75 degrees of freedom,
    momentum and steps of 5 eps / steps, and nine times as many clean images. Ours is one PGD copy a clean image.

    Args:
        accurate, robust: the frozen base networks, passed in by the part that trains.
        norm, eps: the training threat.
        steps: of the attack; each has length 2.5 eps / steps.
        gamma_scale, gamma_bias: as deployed. The range of alpha is not applied in training.
        taps: as deployed.
        detection, classification, product: weights of the loss.

    Raises:
        UserError: unknown norm, eps not positive, or a value outside its range.
    """

    accurate: nn.Module
    robust: nn.Module
    eps: str | float
    norm: str = "linf"
    steps: int = knob(10, least=1)
    gamma_scale: float = knob(2.0, above=0, hint="it multiplies the logits of a base model")
    gamma_bias: float = 0.4
    accurate_scale: float = knob(1.0, above=0, hint="it multiplies the logits of a base model")
    robust_scale: float = knob(1.0, above=0, hint="it multiplies the logits of a base model")
    taps: list[list[str]] = field(default_factory=lambda: [["stem", "layer1"], ["stem", "layer1"]])
    detection: float = 1.0
    classification: float = 0.5
    product: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accurate is None or self.robust is None:
            raise UserError(
                "recipe=adaptive_smoothing trains a part of a defense; run.py defense=adaptive_smoothing does that"
            )
        Threat(self.norm, self.eps)
        _check_taps("recipe.objective.taps", self.taps)

    def classifier(self, model: nn.Module) -> nn.Module:
        """Return the mixture around the mixing network being trained, from pixels to logits."""
        return _Mixture(self, model)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        factors = torch.ones(len(x), dtype=x.dtype, device=x.device) if factors is None else factors
        return self._attack(_Mixture(self, model), x, y, rng, factors)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        logits, gamma = _Mixture(self, model).both(torch.cat([x, z]))
        truth = torch.cat([torch.zeros_like(gamma[: len(x)]), torch.ones_like(gamma[len(x) :])])
        detect = nn.functional.binary_cross_entropy_with_logits(gamma, truth, reduction="none")
        classify = nn.functional.cross_entropy(logits, torch.cat([y, y]), reduction="none")
        total = self.detection * detect + self.classification * classify + self.product * detect * classify
        return total.reshape(2, len(x)).mean(0)

    def _attack(self, mixture: "_Mixture", x: Tensor, y: Tensor, rng: Rng, factors: Tensor) -> Tensor:
        """Attacked images, aware of the mixing network, which is in eval mode meanwhile."""
        knobs = rng.stream("knobs").uniform((3,), dtype=x.dtype)
        threat = Threat(self.norm, self.eps).scaled(factors * (0.4 + 0.7 * knobs[:, 0]))
        deceive = 0.4 * knobs[:, 1]
        z = threat.random(x, rng.stream("start"))
        with evaluating(mixture):
            logits, _ = mixture.both(x)
            others = logits.detach().scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)
            # Half of the samples go to the class with the best score at each step, half to one chosen for good.
            choice = rng.stream("target").integers((), logits.shape[1] - 1)
            target = others.gather(1, choice[:, None]).squeeze(1)
            for _ in range(self.steps):
                leaf = z.detach().requires_grad_()
                with torch.enable_grad():
                    logits, gamma = mixture.both(leaf)
                    best = logits.detach().scatter(1, y[:, None], -torch.inf).argmax(1)
                    rival = torch.where(knobs[:, 2] < 0.5, best, target)
                    margin = logits.gather(1, rival[:, None]) - logits.gather(1, y[:, None])
                    goal = (1 - deceive) * margin.squeeze(1) + deceive * nn.functional.softplus(-gamma)
                    (gradient,) = torch.autograd.grad(goal.sum(), leaf)
                z = threat.project(z + threat.budget(x) * 2.5 / self.steps * threat.steepest(gradient), x)
        return z


def _check_taps(key: str, taps: list[list[str]]) -> None:
    """Refuse taps that are not an early and a late layer of each of the two base networks. Raises UserError."""
    if [len(names) for names in taps] != [2, 2]:
        raise UserError(f"{key}={taps} must be [[early, late], [early, late]], of the accurate and the robust network")


class _Mixture(nn.Module):
    """The mixture as the objective sees it: only the mixing network is trained."""

    def __init__(self, objective: AdaptiveSmoothingObjective, network: nn.Module) -> None:
        super().__init__()
        self.objective, self.network = objective, network
        left, right = ((names[0], names[1]) for names in objective.taps)
        self.composite = Composite(objective.accurate, objective.robust, network, (left, right))

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the mixture [B, K] and the scaled gamma [B]."""
        it = self.objective
        accurate, robust, gamma = self.composite(x)
        gamma = it.gamma_scale * gamma + it.gamma_bias
        return mixed(it.accurate_scale * accurate, it.robust_scale * robust, torch.sigmoid(gamma)), gamma

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[0]

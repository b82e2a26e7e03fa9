"""Rejection of images whose features are far from those of every class: the Mahalanobis detector."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gauntlet.data.fitting import FittingImages
from gauntlet.defenses.base import Card
from gauntlet.defenses.rejection import Rejecting, Score
from gauntlet.errors import UserError
from gauntlet.knobs import knob
from gauntlet.models.feature_taps import Tapped
from gauntlet.threat_model.rng import Rng


class Gaussians(NamedTuple):
    """A Gaussian for each class with one covariance S = A^-1 A^-T for all, float64."""

    means: Tensor  # [K, d]
    whitening: Tensor  # A, [d, d]

    def log_density(self, features: Tensor) -> Tensor:
        """Return max_c -1/2 (f - mu_c)' S^-1 (f - mu_c) of features [B, d], [B]: up to a constant, the logarithm of the
        density of the nearest class."""
        points, centers = features.double() @ self.whitening.T, self.means @ self.whitening.T
        return -0.5 * (points[:, None] - centers).square().sum(2).amin(1)


def fitted_gaussians(
    batches: Iterable[tuple[Tensor, Tensor]], classes: int, shrinkage: float = 0.0, name: str = "the features"
) -> Gaussians:
    """Return the maximum-likelihood Gaussians of features with one covariance, in double precision.

    Args:
        batches: features [b, d] and labels [b].
        shrinkage: share of the mean variance that is added to each variance.
        name: of the features, for the message.

    Raises:
        UserError: a class without images, or a covariance that is singular.
    """
    count, total, square = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for features, y in batches:
        f, one_hot = features.double(), nn.functional.one_hot(y, classes).double()
        count, total, square = one_hot.sum(0) + count, one_hot.T @ f + total, f.T @ f + square
    if not count.dim() or not bool((count > 0).all()):
        lacking = (count == 0).nonzero().flatten().tolist() if count.dim() else [0]
        raise UserError(f"the train part has no image of class {lacking[0]}: there is no mean to fit")
    means = total / count[:, None]
    covariance = (square - means.T @ (count[:, None] * means)) / count.sum()
    covariance = (covariance + covariance.T) / 2
    covariance = covariance + shrinkage * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
    deviation = covariance.diagonal().sqrt()
    scale = torch.where(deviation > 0, 1 / deviation, 0.0)  # of correlations the rank does not depend on units
    values, vectors = torch.linalg.eigh(scale[:, None] * covariance * scale)
    rank = int((values > values[-1] * len(values) * torch.finfo(values.dtype).eps * 100).sum())
    if rank < len(values):
        raise UserError(
            f"the covariance of {name} is singular: rank {rank} of {len(values)} features; choose other layers "
            "(defense.taps), or give defense.shrinkage=1e-6"
        )
    return Gaussians(means, vectors.T * scale / values.sqrt()[:, None])


def logistic_regression(features: Tensor, label: Tensor, ridge: float = 1e-3, steps: int = 50) -> Tensor:
    """Return the weights and the offset of least mean cross-entropy plus ridge |w|^2 / 2, float64 [d + 1], by Newton.

    Args:
        features: [n, d], of about unit size.
        label: 0 or 1, [n].
    """
    x = torch.cat([features.double(), torch.ones(len(features), 1).to(features.double())], 1)
    penalty = ridge * torch.eye(x.shape[1]).to(x)
    penalty[-1, -1] = 1e-9  # the offset is free
    weight = torch.zeros(x.shape[1]).to(x)
    for _ in range(steps):
        p = (x @ weight).sigmoid()
        slope = x.T @ (p - label.double()) / len(x) + penalty @ weight
        curvature = (x * (p * (1 - p))[:, None]).T @ x / len(x) + penalty
        step = torch.linalg.solve(curvature, slope)
        weight = weight - step / max(1.0, float(step.norm()))  # damped: a full step may overshoot from afar
        if float(step.abs().max()) < 1e-10:
            break
    return weight


@dataclass(frozen=True)
class Mahalanobis(Rejecting):
    """Rejects images whose layers are far from the Gaussians of all classes.

    Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial attacks",
    arXiv 1807.03888. Each tapped layer gives a log density of its channel means; before, the image is nudged towards a
    higher one. Logistic regression weighs the layers: clean and noisy validation images against FGSM examples of the
    network by itself, which is all that the detector ever saw of an attack. The gradient of the nudge is zero almost
    everywhere, so that of the score is taken at the nudged image: exact, no stand-in.

    Args:
        parts: "model".
        taps: names of the layers, as in `network.named_modules()`.
        nudge: length of the step in pixel values, >= 0; 0: none.
        shrinkage: share of the mean variance that is added to each variance, for channels that are always zero.
        fit_eps: linf size of the FGSM examples and of the noise, in pixel values.
        accepted, threshold: see `gauntlet.defenses.rejection.Rejecting`.

    Raises:
        UserError: a value out of range; when fitted, a layer that is not there or a covariance that is singular.
    """

    card: ClassVar[Card] = Card(
        "A network that gives no answer where its features are far from those of every class.",
        source="Lee et al. 2018, arXiv 1807.03888",
        claim="detection of FGSM, BIM, DeepFool and CW-L2 examples that were crafted without regard to the detector",
        forwards=7.0,
        differs="the logistic regression is fitted by Newton's method to validation images and their FGSM examples, "
        "without cross-validation; the nudge is given, not chosen; a millionth of the mean variance is added to each",
    )

    taps: list[str] = field(default_factory=list)
    nudge: float = knob(0.005, least=0)
    shrinkage: float = knob(1e-6, least=0)
    fit_eps: float = knob(0.1, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.taps:
            raise UserError("defense.taps must name layers of the network, such as defense.taps=[layer1,layer2]")

    def score(self, model: nn.Module, images: FittingImages) -> Score:
        densities = self._densities(model, images)
        columns, labels = self._examples(model, densities, images)
        mean, spread = columns.mean(0), columns.std(0).clamp_min(1e-12)
        weight = logistic_regression((columns - mean) / spread, labels)

        def score(x: Tensor) -> Tensor:
            layers = torch.stack([density(x) for density in densities], 1)
            found: Tensor = ((layers - mean) / spread) @ weight[:-1] + weight[-1]
            return found

        return score

    def _densities(self, model: nn.Module, images: FittingImages) -> list[Score]:
        """Return the log density that each tapped layer gives to images, after the nudge."""
        tapped = Tapped(model, self.taps)

        @torch.no_grad()
        def features(layer: int) -> Iterable[tuple[Tensor, Tensor]]:
            return [(channel_means(tapped(x)[1][layer]), y) for _, x, y in images.batches("train")]

        found: list[Score] = []
        for layer, name in enumerate(self.taps):
            fit = fitted_gaussians(features(layer), images.classes, self.shrinkage, f"layer {name}")

            def density(x: Tensor, layer: int = layer, fit: Gaussians = fit) -> Tensor:
                return fit.log_density(channel_means(tapped(x)[1][layer]))

            found.append(nudged(density, self.nudge) if self.nudge else density)
        return found

    def _examples(self, model: nn.Module, densities: Sequence[Score], images: FittingImages) -> tuple[Tensor, Tensor]:
        """Return the densities [n, layers] of validation images, of noisy ones (both 1) and of attacked ones (0), of
        images that the network gets right, and only attacked ones that it gets wrong unless it gets all right."""
        rows: list[Tensor] = []
        labels: list[Tensor] = []
        for ids, x, y in images.batches("validation"):
            sign = Rng(0, ids, "mahalanobis noise").uniform(tuple(x.shape[1:]), -1, 1, dtype=x.dtype).sign()
            noisy = (x + self.fit_eps * sign).clamp(0, 1)
            attacked = fgsm(model, x, y, self.fit_eps)
            with torch.no_grad():
                right, fooled = model(x).argmax(1) == y, model(attacked).argmax(1) != y
                keep = right & fooled if bool((right & fooled).any()) else right
                for batch, chosen, label in ((x, right, 1), (noisy, right, 1), (attacked, keep, 0)):
                    rows.append(torch.stack([density(batch[chosen]) for density in densities], 1))
                    labels.append(torch.full((int(chosen.sum()),), label, device=x.device))
        return torch.cat(rows), torch.cat(labels)


def channel_means(features: Tensor) -> Tensor:
    """Return the mean of each channel over space, [B, C]; features: [B, C, ...]."""
    return features.flatten(2).mean(2) if features.dim() > 2 else features


def nudged(density: Score, length: float) -> Score:
    """Return the density of each image after a step of that length along the sign of its own gradient."""

    def found(x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(density(leaf).sum(), leaf)
        return density(x + length * gradient.sign())

    return found


def fgsm(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return images one step of eps along the sign of the gradient of the cross-entropy away, in [0, 1]."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y), leaf)
    return (x + eps * gradient.sign()).clamp(0, 1)

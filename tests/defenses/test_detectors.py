"""The detectors against closed forms, and what they refuse."""

import numpy as np
import pytest
import torch
from torch import nn

from gauntlet.config.validate import build
from gauntlet.data.dataset import Batch
from gauntlet.data.fitting import FittingImages
from gauntlet.defenses.feature_squeezing import median
from gauntlet.defenses.mahalanobis import channel_means, fitted_gaussians, logistic_regression, nudged
from gauntlet.errors import UserError
from gauntlet.metrics.rejection import auroc
from gauntlet.threat_model.rng import Rng


def gaussians(classes, features, each, seed=0):
    """Features of classes with means of their own and a shared covariance: points, labels, means, covariance."""
    draw = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(classes, features, generator=draw, dtype=torch.float64)
    mix = torch.randn(features, features, generator=draw, dtype=torch.float64) + 2 * torch.eye(features)
    y = torch.arange(classes).repeat(each)
    noise = torch.randn(len(y), features, generator=draw, dtype=torch.float64)
    return means[y] + noise @ mix.T, y, means, mix @ mix.T


def test_the_fit_finds_means_and_covariance_and_its_nearest_class_is_that_of_linear_discriminants():
    points, y, means, covariance = gaussians(4, 3, 5000)
    fit = fitted_gaussians([(points[:7000], y[:7000]), (points[7000:], y[7000:])], 4)
    found = torch.linalg.inv(fit.whitening.T @ fit.whitening)
    assert torch.allclose(fit.means, means, atol=0.15)
    assert torch.allclose(found, covariance, rtol=0.05, atol=0.3)
    weight = torch.linalg.solve(found, fit.means.T)  # linear discriminants with equal priors
    discriminant = points @ weight - 0.5 * (fit.means * weight.T).sum(1)
    own = discriminant.amax(1) - 0.5 * (points * torch.linalg.solve(found, points.T).T).sum(1)
    assert torch.allclose(fit.log_density(points), own, atol=1e-8)


def test_invertible_linear_maps_of_the_features_change_nothing():
    points, y, _, _ = gaussians(3, 5, 200)
    scale = torch.diag(torch.logspace(-1, 1, 5, dtype=torch.float64)) @ torch.linalg.qr(points[:5]).Q
    plain, mapped = (fitted_gaussians([(f, y)], 3).log_density(f) for f in (points, points @ scale))
    assert torch.allclose(plain, mapped, rtol=1e-6)


def test_a_shift_of_two_deviations_in_five_dimensions_is_told_as_well_as_the_theory_says():
    """AUROC = P(chi2_5 < noncentral chi2_5(4)) = 0.7543."""
    draw = np.random.default_rng(0)
    here, there = (torch.from_numpy(draw.normal(size=(20000, 5))) for _ in range(2))
    there[:, 0] += 2
    fit = fitted_gaussians([(here, torch.zeros(20000, dtype=torch.long))], 1)
    found = auroc(fit.log_density(here).numpy(), fit.log_density(there).numpy())
    assert found == pytest.approx(0.7543, abs=0.01)


def test_a_singular_covariance_and_a_class_without_images_are_refused_by_name():
    points, y, _, _ = gaussians(3, 4, 50)
    twice = torch.cat([points, points[:, :1]], 1)
    with pytest.raises(UserError, match=r"covariance of layer stem is singular: rank 4 of 5 .*defense.shrinkage=1e-6"):
        fitted_gaussians([(twice, y)], 3, name="layer stem")
    assert fitted_gaussians([(twice, y)], 3, shrinkage=1e-6).log_density(twice).isfinite().all()
    with pytest.raises(UserError, match="no image of class 3"):
        fitted_gaussians([(points, y)], 4)


def test_logistic_regression_finds_the_weights_that_made_the_labels():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 2, generator=draw, dtype=torch.float64)
    label = torch.rand(20000, generator=draw) < (x @ torch.tensor([2.0, -1.0]).double() + 0.5).sigmoid()
    assert torch.allclose(logistic_regression(x, label, 1e-9), torch.tensor([2.0, -1.0, 0.5]).double(), atol=0.1)
    apart = logistic_regression(x, x[:, 0] > 0)  # separable: the ridge keeps it finite
    assert apart.isfinite().all()
    assert apart[0] > 1


def test_the_nudge_raises_the_density_and_lets_the_gradient_through():
    def density(x):
        return -(x - 0.3).flatten(1).square().sum(1)

    x = torch.full((2, 1, 1, 2), 0.5, requires_grad=True)
    assert (nudged(density, 0.1)(x) > density(x)).all()
    (gradient,) = torch.autograd.grad(nudged(density, 0.1)(x).sum(), x)
    assert torch.allclose(gradient, torch.full_like(x, -0.2))  # at the nudged image, 0.4
    assert torch.equal(channel_means(torch.arange(8.0).reshape(1, 2, 2, 2)), torch.tensor([[1.5, 5.5]]))


def test_a_median_forgets_a_single_pixel():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1
    assert torch.equal(median(image, 3), torch.zeros(1, 1, 5, 5))
    image[0, 0, :, 2:] = 1
    assert torch.equal(median(image, 3), image)


class FewImages(FittingImages):
    """Four random images of each of two classes in each part; one pixel is always black."""

    def __init__(self):
        self.device, self.classes = torch.device("cpu"), 2

    def batches(self, part, most=None):
        ids = torch.arange(8)
        yield Batch(ids, Rng(0, ids, part).uniform((1, 2, 2)) * torch.tensor([[1, 0], [1, 1]]), ids % 2)


class Always(nn.Module):
    """Says the class of images by their number, so that all are right."""

    def __init__(self):
        super().__init__()
        self.flat = nn.Flatten()

    def forward(self, x):
        return self.flat(x)[:, :1] * 0 + nn.functional.one_hot(torch.arange(len(x)) % 2, 2)


def defense(name, **knobs):
    node = {"model": {"_target_": "torch.nn.Identity"}, "recipe": {}}
    part = {"_target_": "gauntlet.training.trained_network.TrainedNetwork", "_recursive_": False, **node}
    return build({"_target_": f"gauntlet.defenses.{name}", "parts": {"model": part}, **knobs})


def test_a_threshold_that_rejects_everything_and_a_score_that_tells_nothing_are_refused():
    images, models = FewImages(), {"model": Always()}
    with pytest.raises(UserError, match=r"defense.threshold=1 rejects every validation image .* scores end at -0.31"):
        defense("confidence.Confidence", threshold=1.0).fitted(models, images)
    with pytest.raises(UserError, match="gives all validation images the same score"):
        defense("confidence.Confidence").fitted(models, images)


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("mahalanobis.Mahalanobis", {"taps": ["flatt"]}, "no layer 'flatt' to tap; try flat"),
        ("mahalanobis.Mahalanobis", {"taps": ["flat"], "shrinkage": 0.0}, "the covariance of layer flat is singular"),
        ("mahalanobis.Mahalanobis", {}, "defense.taps must name layers"),
        ("feature_squeezing.FeatureSqueezing", {"window": 2}, "must be odd"),
        ("feature_squeezing.FeatureSqueezing", {"bits": 0, "window": 1}, "squeeze nothing"),
        ("confidence.Confidence", {"accepted": 0.0}, "defense.accepted=0.0 must be"),
    ],
)
def test_slips_are_told_in_a_line(name, knobs, message):
    with pytest.raises(UserError, match=message) as caught:
        defense(name, **knobs).fitted({"model": Always()}, FewImages())
    assert "\n" not in str(caught.value)


class TwoParts:
    """A data set whose validation part is its test part."""

    name, classes = "mine", 2

    def split(self, part):
        class Split:
            def digest(self):
                return "sha256:" + ("train" if part == "train" else "same")

        return Split()


def test_nothing_is_fitted_to_what_is_evaluated():
    images = FittingImages(TwoParts(), torch.device("cpu"))
    with pytest.raises(UserError, match="asks for the test images"):
        next(images.batches("test"))
    with pytest.raises(UserError, match="validation part of mine is its test part"):
        next(images.batches("validation"))

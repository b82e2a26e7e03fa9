import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from scipy import stats
from torch import nn

from gauntlet.certification.certifiable import Dual
from gauntlet.certification.certifier import Work
from gauntlet.certification.dual_smoothing import DualSmoothingCertifier
from gauntlet.certification.noise import Gaussian
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.errors import UserError
from gauntlet.jobs.setup import KEYS
from gauntlet.models.half_image import Half, filled, kept
from gauntlet.models.small_cnn import SmallCNN
from tests.certification.conftest import HalfSpace, certify, victim_of


def two_lines(p, q, sigma=1.0):
    """Two one-dimensional half-spaces with these shares at the origin, each on its own pixel."""
    left = HalfSpace([1.0, 0.0], -stats.norm.ppf(p) * sigma)
    right = HalfSpace([0.0, 1.0], -stats.norm.ppf(q) * sigma)
    return Dual(left, right, Gaussian(sigma))


def flip(p, q):
    """Distance at which the sum of the shares of two half-spaces falls to one, found on a fine grid of directions."""
    u, v = stats.norm.ppf(p), stats.norm.ppf(q)
    ways = np.linspace(-math.pi / 2, math.pi, 2001)
    best = math.inf
    for way in ways:
        a, b = math.cos(way), math.sin(way)
        if a + b > 1e-9:
            best = min(best, (u + v) / (a + b))
    return best


@pytest.mark.parametrize(("p", "q"), [(0.99, 0.6), (0.9, 0.9), (0.999, 0.3), (0.55, 0.52)])
def test_the_sum_rule_is_the_distance_at_which_two_half_spaces_flip(p, q):
    radius = float(two_lines(p, q).radius(np.array([p, q])))
    assert radius == pytest.approx(flip(p, q), rel=1e-5)


def test_the_root_of_the_sum_of_squares_claims_too_much():
    p, q = 0.99, 0.6
    true, released = flip(p, q), math.hypot(stats.norm.ppf(p), stats.norm.ppf(q))
    assert true == pytest.approx(1.824, abs=1e-3)
    assert released == pytest.approx(2.340, abs=1e-3)
    assert float(two_lines(p, q).radius(np.array([p, q]))) <= true + 1e-9 < released


def test_a_half_below_one_half_counts_against_the_other():
    both = two_lines(0.99, 0.4).radius(np.array([0.99, 0.4]))
    assert float(both) == pytest.approx(flip(0.99, 0.4), rel=1e-5)
    assert float(both) < stats.norm.ppf(0.99) / math.sqrt(2)
    assert float(two_lines(0.6, 0.3).radius(np.array([0.6, 0.3]))) < 0


def test_alpha_is_split_between_the_halves():
    victim = victim_of(two_lines(0.99, 0.6))
    found = certify(DualSmoothingCertifier(samples=2000, alpha=0.01), victim, torch.zeros(1, 1, 1, 2), Work(512))
    bounds = stats.beta.ppf(0.005, found.counts[0], 2001 - found.counts[0])
    assert np.allclose(found.lower[0], bounds, atol=1e-12)
    assert float(found.radius) == pytest.approx(stats.norm.ppf(bounds).sum() / math.sqrt(2), abs=1.1e-6)
    assert found.forwards.tolist() == [2 * 2100]
    assert found.samples.tolist() == [2100]


def test_certificates_hold_as_often_as_they_say():
    victim, true = victim_of(two_lines(0.95, 0.7)), flip(0.95, 0.7)
    found = certify(
        DualSmoothingCertifier(samples=150, alpha=0.05, selection=20), victim, torch.zeros(300, 1, 1, 2), Work(2048)
    )
    assert int((found.radius > true).sum()) <= stats.binom.ppf(0.999, 300, 0.05)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7)])
def test_the_halves_are_disjoint_and_whole(height, width):
    left, right = (kept(height, width, side, torch.zeros(1)) for side in ("left", "right"))
    assert torch.equal(left + right, torch.ones(height, width))
    assert abs(int(left.sum() - right.sum())) <= 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_half_cannot_see_the_other(side):
    network = Half(side, SmallCNN(10, 1, 8)).eval()
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x).square().sum(), x)
    mask = kept(8, 8, side, x)
    assert (gradient * (1 - mask) == 0).all()
    assert (gradient * mask != 0).any()
    other = torch.where(mask.bool(), x, 1 - x)
    assert torch.equal(network(x), network(other))


def test_missing_pixels_are_means_of_their_neighbours():
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    seen = filled(x, kept(3, 3, "left", x))[0, 0]
    assert torch.allclose(seen, torch.tensor([[0, 2, 2], [10 / 3, 4, 14 / 3], [6, 6, 8]]))


@pytest.mark.parametrize("recipe", ["gaussian", "consistency", "smoothadv"])
def test_each_half_can_be_trained_by_each_recipe_with_the_noise_that_is_deployed(recipe):
    GlobalHydra.instance().clear()
    chosen = [f"recipe@defense.parts.{side}.recipe={recipe}" for side in ("left", "right")]
    with initialize_config_dir(CONF, version_base=None):
        cfg = checked(compose("run", ["defense=dual_smoothing", "defense.sigma=0.3", "attack=pgd", *chosen]), KEYS)
    for side, part in build(cfg.defense).parts.items():
        objective = build(OmegaConf.create(part.recipe)).objective
        assert type(objective).__name__.lower().removesuffix("augmentation") == recipe
        assert objective.sigma == 0.3
        assert build(OmegaConf.create(part.model)).side == side


def test_unknown_sides_and_rules():
    with pytest.raises(UserError, match="left or right"):
        Half("top", nn.Identity())
    with pytest.raises(UserError, match="single_phase"):
        DualSmoothingCertifier(rule="single_phase")

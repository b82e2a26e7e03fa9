"""Each noise against its definition, and each radius against the worst that can be done."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from gauntlet.certification.certifiable import Smoothed
from gauntlet.certification.certifier import Work
from gauntlet.certification.noise import Ablation, Gaussian, GridGaussian, Laplace, Uniform, cells
from gauntlet.certification.smoothing import Smoothing
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from tests.certification.conftest import HalfSpace, certify, victim_of

IDS = torch.arange(4000)


def samples(noise, shape=(1, 2, 2), value=0.4):
    x = torch.full((len(IDS), *shape), value)
    return noise(x, Rng(0, IDS, "noise"), IDS % 7) - x


@pytest.mark.parametrize(
    ("noise", "law"),
    [
        (Gaussian(0.3), stats.norm(scale=0.3)),
        (Uniform(0.4), stats.uniform(-0.4, 0.8)),
        (Laplace(0.2), stats.laplace(scale=0.2)),
    ],
    ids=["gaussian", "uniform", "laplace"],
)
def test_noise_has_its_law(noise, law):
    drawn = samples(noise).flatten().numpy()
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-3
    pixels = samples(noise).flatten(1).numpy()
    assert abs(np.corrcoef(pixels.T) - np.eye(4)).max() < 0.06


@pytest.mark.parametrize("noise", [Gaussian(0.3), GridGaussian(0.3), Uniform(0.4), Laplace(0.2), Ablation(2, 2)])
def test_noise_depends_on_sample_and_draw_alone(noise):
    x = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    ids, draw = torch.arange(6), torch.tensor([3, 1, 4, 1, 5, 9])
    whole = noise(x, Rng(0, ids, "a"), draw)
    some = torch.tensor([4, 1])
    assert torch.equal(noise(x[some], Rng(0, ids[some], "a"), draw[some]), whole[some])
    assert torch.equal(noise(x[3:4], Rng(0, ids[3:4], "a"), 1), whole[3:4])
    assert not torch.equal(noise(x, Rng(0, ids, "b"), draw), whole)


def test_the_grid_keeps_whole_steps_whole_and_has_the_probabilities_of_its_cells():
    noise = GridGaussian(0.1)
    most, below = cells(0.1, 255)
    share = np.diff([0, *below, 1 << 60])
    assert min(share) >= 0
    edges = (np.arange(-most, most) + 0.5) / 255
    assert np.allclose(below * 2.0**-60, stats.norm.cdf(edges, scale=0.1), atol=2e-16, rtol=0)
    assert list(share) == list(reversed(share))
    share = share * 2.0**-60
    steps = np.arange(-most, most + 1) / 255
    assert (share * steps**2).sum() == pytest.approx(0.1**2 + 1 / (12 * 255**2), abs=1e-8)
    x = torch.full((len(IDS), 1, 2, 2), 51 / 255)
    noisy = noise(x, Rng(0, IDS, "noise"), 0).double() * 255
    assert (noisy - noisy.round()).abs().max() < 1e-3
    assert stats.kstest((noisy / 255 - 0.2).flatten().numpy(), stats.norm(scale=0.1).cdf).pvalue > 1e-4
    drawn = noisy.round().long().flatten() - 51
    share = share[most - 10 : most + 11].sum()
    assert abs(float((drawn.abs() <= 10).double().mean()) - share) < 4 * math.sqrt(share * (1 - share) / len(drawn))


def test_images_between_steps_get_no_exact_certificate():
    victim = victim_of(Smoothed(HalfSpace([1.0]), GridGaussian(0.25)))
    certify(Smoothing(samples=200), victim, torch.full((1, 1, 1, 1), 128 / 255), Work())
    with pytest.raises(UserError, match="steps of 1/255"):
        certify(Smoothing(samples=200), victim, torch.full((1, 1, 1, 1), 0.5), Work())
    victim = victim_of(Smoothed(HalfSpace([1.0]), GridGaussian(0.25, 240)))
    certify(Smoothing(samples=200), victim, torch.full((1, 1, 1, 1), 3 / 16), Work())


@pytest.mark.parametrize("share", [0.55, 0.8, 0.99])
def test_the_l1_radii_are_where_the_worst_set_falls_to_one_half(share):
    # Uniform: the set is all x with first pixel below a cut; moved by r its share falls by r / (2 width).
    assert share - float(Uniform(0.4).radius(np.array(share))) / 0.8 == pytest.approx(0.5)
    # Laplace: the half-line with this share; moved by r the share of the rest grows by the factor exp(r / scale).
    moved = stats.laplace(scale=0.2).cdf(stats.laplace(scale=0.2).ppf(share) - Laplace(0.2).radius(np.array(share)))
    assert float(moved) == pytest.approx(0.5)


@pytest.mark.parametrize(("size", "keep"), [(2, 2), (2, 3), (3, 2), (3, 4)])
def test_ablation_counts_the_copies_that_see_a_change(size, keep):
    noise, pixels = Ablation(keep, size), size**2
    for changed in range(pixels - keep + 1):
        sets = list(itertools.combinations(range(pixels), keep))
        seen = sum(min(chosen) < changed for chosen in sets) / len(sets)
        assert float(noise.seen(np.array(float(changed)))) == pytest.approx(seen)
        if 0 < seen < 0.5:
            assert float(noise.radius(np.array(0.5 + seen + 1e-6))) >= changed
            assert float(noise.radius(np.array(0.5 + seen - 1e-6))) < changed
    assert float(noise.radius(np.array(0.5))) <= 0


def test_ablation_keeps_so_many_pixels_with_all_channels():
    noise = Ablation(3, 4)
    x = torch.rand(50, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.4
    noisy = noise(x, Rng(0, torch.arange(50), "a"), 0)
    kept = (noisy == x).all(1)
    assert (kept.flatten(1).sum(1) == 3).all()
    assert (noisy.permute(0, 2, 3, 1)[~kept] == 0.5).all()
    share = (noise(torch.zeros(4000, 1, 4, 4), Rng(0, IDS, "b"), 0) == 0).float().mean(0)
    assert (share - 3 / 16).abs().max() < 4 * math.sqrt(3 / 16 * 13 / 16 / 4000)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform(0.0), lambda: Laplace(-1.0), lambda: Ablation(0, 8), lambda: Ablation(65, 8),
        lambda: GridGaussian(0.25, 0), lambda: Ablation(3, 4)(torch.zeros(1, 1, 8, 8), Rng(0, IDS[:1]), 0),
    ],
)  # fmt: skip
def test_noise_that_is_none(make):
    with pytest.raises(UserError):
        make()


@pytest.mark.parametrize("offset", [0.0, 0.3, -0.49, -0.51, -0.9])
def test_the_grid_rounds_the_sum_once_wherever_the_image_lies(offset):
    # A linear network whose sum over 3072 pixels tells how far the noisy copies moved on average: the share of class 1
    # of round(x + noise) is that of x + noise, as the rounding of a wide normal is even. Rounding the noise and the
    # sum by themselves would move a point at -0.51 of a step by a whole one, and leave one at 0.3 where it was.
    d, sigma, draws = 3072, 0.25, 4000
    w = torch.full((d,), d**-0.5)
    x = torch.full((1, 1, 1, d), 128 / 255)
    network = HalfSpace(w, float(w.sum()) * 128 / 255 - 0.16)
    mechanism = Smoothed(network, GridGaussian(sigma))
    moved = (x + offset / 255).expand(draws, -1, -1, -1)
    votes = torch.cat(
        [
            mechanism.votes(part, Rng(0, torch.zeros(len(part), dtype=torch.int64), "votes"), first + torch.arange(500))
            for first, part in zip(range(0, draws, 500), moved.split(500), strict=True)
        ]
    )
    wide = math.sqrt(sigma**2 + 1 / (12 * 255**2))
    share = stats.norm.cdf((0.16 + offset / 255 * d**0.5) / wide)
    assert abs(float(votes.double().mean()) - share) < 4 * math.sqrt(share * (1 - share) / draws)


def test_the_grid_is_one_function_of_the_sum_on_and_between_its_steps():
    # The same bits on a step and a hair beside it: another copy only where the sum lies that close to an edge.
    noise, rng = GridGaussian(0.25), Rng(0, IDS, "noise")
    x = torch.full((len(IDS), 1, 4, 4), 51 / 255)
    on, beside = noise(x, rng, 0), noise(x + 2e-6, rng, 0)
    assert 0 < (on != beside).double().mean() < 2e-3
    assert torch.equal(on, (on * 255).round() / 255)
    assert torch.equal(beside, (beside * 255).round() / 255)
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(noise(x, rng, 0).sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gauntlet.certification.certifiable import Mixed
from gauntlet.certification.certifier import Work
from gauntlet.certification.mixing import MixingCertifier, both, closed, lipschitz, smoothing
from gauntlet.certification.noise import Gaussian
from gauntlet.defenses import smoothed_mixing
from gauntlet.errors import UserError
from gauntlet.models.mixing_network import MixingNetwork
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.threat_model.threat import Threat
from tests.certification.conftest import HalfSpace, certify, victim_of

WORST = {
    0.8: (0.435, 0.274, 0.178),
    0.9: (0.875, 0.479, 0.303),
    0.99: (1.920, 0.682, 0.416),
    0.9999: (3.312, 0.706, 0.429),
}


@pytest.mark.parametrize(("p", "wanted"), WORST.items())
def test_the_three_formulas_at_alpha_0_76(p, wanted):
    code = np.sqrt(2 / np.pi)
    got = closed(p, 1 - p, 0.76, 1.0), smoothing(p, 1 - p, 0.76, 1.0), lipschitz(p, 1 - p, 0.76, 1.0, code)
    assert [float(radius) for radius in got] == pytest.approx(wanted, abs=1e-3)


def test_golden_values_of_the_published_formulas():
    golden = {1.0: 0.709081, 0.9: 0.474333, 0.76: 0.261300, 0.6: 0.065388}
    for alpha, radius in golden.items():
        assert float(smoothing(0.9, 0.06, alpha, 0.5)) == pytest.approx(radius, abs=5e-6)
    doubled, plain = 1.59577, 0.797885
    for alpha, radius, half in ((0.9, 0.456763, 0.228382), (0.76, 0.328500, 0.164250)):
        assert float(lipschitz(0.9, 0.06, alpha, 1.0, plain)) == pytest.approx(radius, abs=1e-5)
        assert float(lipschitz(0.9, 0.06, alpha, 1.0, doubled)) == pytest.approx(half, abs=1e-5)


def test_all_weight_on_the_robust_network_is_plain_smoothing():
    shares = np.linspace(0.51, 0.999, 20)[:, None]
    mixed = Mixed(HalfSpace([1.0]), Gaussian(0.5), 1.0)
    assert np.allclose(mixed.radius(shares), 0.5 * stats.norm.ppf(shares[:, 0]))
    assert (Mixed(HalfSpace([1.0]), Gaussian(0.5), 0.5).radius(shares) == -np.inf).all()


@pytest.mark.parametrize("alpha", [0.55, 0.67, 0.76, 0.99])
def test_the_worst_mixture_with_a_half_space_flips_exactly_at_the_radius(alpha):
    p, sigma = 0.97, 0.5
    radius = float(closed(p, 1 - p, alpha, sigma))
    for t, holds in ((radius * 0.999, True), (radius * 1.001, False)):
        h = stats.norm.cdf(stats.norm.ppf(p) - t / sigma)
        mixture = np.array([alpha * h, alpha * (1 - h) + 1 - alpha])  # the accurate network is sure of the other class
        assert (mixture.argmax() == 0) == holds


@given(st.floats(0.5, 0.999), st.floats(0.51, 0.9999), st.floats(0.1, 1.0), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_no_published_radius_exceeds_the_closed_form(alpha, p, sigma, share):
    exact = float(closed(p, 1 - p, alpha, sigma))
    assert float(smoothing(p, 1 - p, alpha, sigma)) <= max(exact, 0) + 1e-9
    assert float(lipschitz(p, 1 - p, alpha, sigma)) <= max(exact, 0) + 1e-9
    assert both(p, 1 - p, alpha, sigma) == pytest.approx(max(exact, 0), abs=1e-6)
    second = share * (1 - p)
    assert both(p, max(second, 1e-12), alpha, sigma) >= max(float(smoothing(p, second, alpha, sigma)), exact, 0) - 1e-6
    assert exact <= float(closed(min(p + 1e-3, 1 - 1e-12), 0, alpha, sigma))
    assert exact <= float(closed(p, 1 - p, min(alpha + 1e-3, 1.0), sigma))


def test_shares_of_votes_are_the_mean_probabilities():
    network, sigma = HalfSpace([2.0, 0.0]), 0.5
    mixed = Mixed(network, Gaussian(sigma), 0.8, scale=1.5)
    x = torch.full((1, 1, 1, 2), 0.6)
    found = certify(MixingCertifier(samples=4000), victim_of(mixed), x, Work(2048))
    nodes = 0.6 + sigma * stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    mean = (1 / (1 + np.exp(-1.5 * 2 * 2 * nodes))).mean()
    assert abs(int(found.counts) / 4000 - mean) < 4 * np.sqrt(mean * (1 - mean) / 4000)
    assert found.predict.tolist() == [1]
    bound = stats.beta.ppf(0.001, int(found.counts), 4001 - int(found.counts))
    assert float(found.radius) == pytest.approx(max(0, float(closed(bound, 0, 0.8, sigma))), abs=1.1e-6)


def test_the_formulas_order_the_certificates():
    mixed = Mixed(HalfSpace([20.0, 0.0]), Gaussian(0.5), 0.8)
    x = torch.full((1, 1, 1, 2), 0.9)
    radii = {
        name: float(certify(MixingCertifier(samples=1000, formula=name), victim_of(mixed), x, Work(512)).radius)
        for name in ("closed", "smoothing", "lipschitz")
    }
    assert radii["closed"] > radii["smoothing"] > 0
    assert radii["closed"] > radii["lipschitz"] > 0


def test_unknown_formulas_and_weights_that_certify_nothing():
    with pytest.raises(UserError, match=r"certifier\.formula"):
        MixingCertifier(formula="best")
    with pytest.raises(UserError, match=r"weight 0\.5 of the robust network.*above 0\.5"):
        MixingCertifier(samples=1000).check(victim_of(Mixed(HalfSpace([1.0]), Gaussian(0.5), 0.5)), Threat("l2", 1.0))
    with pytest.raises(UserError, match="no radius above 0;"):
        MixingCertifier(samples=20).check(victim_of(Mixed(HalfSpace([1.0]), Gaussian(0.5), 0.6)), Threat("l2", 1.0))


def test_an_adaptive_mixture_is_certified_with_the_least_weight_that_fooling_the_mixing_network_can_buy():
    """The mixing network says the most at the image and the least nearby; the certificate must hold there too."""
    sigma, low, high, p = 0.5, 0.6, 0.99, 0.97
    mixed = Mixed(HalfSpace([1.0]), Gaussian(sigma), low)
    radius = float(mixed.radius(np.array([p])))
    assert radius < float(closed(p, 1 - p, high, sigma))
    h = stats.norm.cdf(stats.norm.ppf(p) - radius * 0.999 / sigma)
    for alpha in (low, high):
        assert alpha * h > alpha * (1 - h) + 1 - alpha
    h = stats.norm.cdf(stats.norm.ppf(p) - float(closed(p, 1 - p, high, sigma)) * 0.999 / sigma)
    assert low * h < low * (1 - h) + 1 - low  # what the weight at the image would have claimed is false


@pytest.mark.parametrize(("name", "least"), [("SmoothedMixing", 0.75), ("SmoothedAdaptive", 0.84)])
def test_the_deployed_mixtures_declare_their_least_weight(name, least):
    parts = dict.fromkeys(("accurate", "robust") + (("mixer",) if name == "SmoothedAdaptive" else ()))
    defense = getattr(smoothed_mixing, name)(parts)
    models = {"accurate": SmallCNN(10, 1, 8), "robust": SmallCNN(10, 1, 8), "mixer": MixingNetwork(32, 64)}
    mechanism = defense.deploy({part: models[part] for part in parts}).mechanism
    assert (mechanism.alpha, mechanism.noise.sigma) == (least, 0.25)
    assert mechanism.robust is models["robust"]

"""Certificates for attributions: closed forms, worst cases, every map within reach, and a run with its pictures."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from scipy import optimize
from torch import nn

from gauntlet.certification.attribution import Attribution, PublishedAttribution
from gauntlet.certification.attribution_bounds import (
    certified_cosine,
    certified_overlap,
    distance_of,
    lost,
    published_cosine,
    sampling_error,
)
from gauntlet.certification.attribution_maps import attribution, in_ball
from gauntlet.certification.certifier import Work
from gauntlet.commands.certification_report import certificate_lines
from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError
from gauntlet.evidence.run_folder import MAPS
from gauntlet.jobs.certification_job import certify
from gauntlet.leaderboard.build import build
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain
from gauntlet.verification.verify import verify


def test_the_share_of_a_ball_that_is_lost():
    part = np.array([0, 0.1, 0.5, 0.9, 1.0, 3.0])
    near = np.minimum(part, 1)
    assert lost(4 * part, 2.0, 1) == pytest.approx(near)
    assert lost(4 * part, 2.0, 3) == pytest.approx(1 - (1 - near) ** 2 * (2 + near) / 2)
    rng = np.random.default_rng(0)
    disc = rng.normal(size=(200_000, 2))
    disc *= (np.sqrt(rng.random(len(disc))) / np.linalg.norm(disc, axis=1))[:, None]
    assert lost(0.7, 1.0, 2) == pytest.approx((np.hypot(disc[:, 0] - 0.7, disc[:, 1]) > 1).mean(), abs=5e-3)
    assert distance_of(lost(0.3, 0.5, 64), 0.5, 64) == pytest.approx(0.3)
    published = [(0.05, 0.960), (0.25, 0.803), (0.5, 0.617), (1.0, 0.317)]  # large d: 2 (1 - Phi(e sqrt d / 2r))
    for scaled, shared in published:
        assert 1 - lost(2 * scaled / np.sqrt(3072), 1.0, 3072) == pytest.approx(shared, abs=1e-3)


def test_no_map_that_a_move_can_make_has_a_smaller_cosine_and_one_has_it():
    """h = (1 - q) a + q b becomes (1 - q) a + q c with any a, b and c of length at most one."""
    rng = np.random.default_rng(1)
    a, b, c = (each / np.linalg.norm(each, axis=1)[:, None] for each in rng.normal(size=(3, 100_000, 2)))
    q = rng.uniform(0, 0.5, (len(a), 1))
    before, after = (1 - q) * a + q * b, (1 - q) * a + q * c
    lengths = np.linalg.norm(before, axis=1), np.linalg.norm(after, axis=1)
    cosine = (before * after).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-12)
    assert (cosine >= certified_cosine(lengths[0], 2 * q[:, 0]) - 1e-9).all()
    length, part = 0.8, 0.1
    worst = np.array([length * (1 - (2 * part / length) ** 2), 0.0])  # the tangent to the circle of radius 2q around h
    worst[1] = 2 * part * np.sqrt(1 - (2 * part / length) ** 2)
    shared = (np.array([length, 0.0]) + worst) / 2
    assert np.linalg.norm(shared) <= 1 - part  # so that it can be made
    found = worst[0] / np.linalg.norm(worst)
    assert found == pytest.approx(float(certified_cosine(length, 2 * part)), abs=1e-12)


def test_the_published_bound_is_wrong_where_ours_claims_nothing():
    """g = e_1 on what is lost, e_2 on what is gained, 0 between: h(x) and h(x + delta) are orthogonal."""
    q = 0.2
    assert certified_cosine(q, 2 * q) == -1
    assert published_cosine(q, 2 * q) > 0.4


@pytest.mark.parametrize("seed", range(4))
def test_overlap_is_that_of_the_worst_map_within_reach(seed):
    rng = np.random.default_rng(seed)
    values, count = rng.uniform(0, 1, 7), 3
    top = set(np.argsort(-values)[:count])

    def away(chosen):
        inside = np.isin(np.arange(7), chosen)

        def cost(level):
            rises, falls = np.maximum(level - values[inside], 0), np.maximum(values[~inside] - level, 0)
            return (rises**2).sum() + (falls**2).sum()

        return np.sqrt(optimize.minimize_scalar(cost, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).fun)

    every = [(away(list(chosen)), len(top & set(chosen))) for chosen in combinations(range(7), count)]
    for reach in np.linspace(0.013, 1, 40):
        worst = min(kept for distance, kept in every if distance <= reach or kept == count)
        assert certified_overlap(values[None], count, reach)[0] == worst


@pytest.mark.parametrize(("draws", "alpha"), [(30, 0.1), (200, 0.05)])
def test_means_leave_the_error_no_more_often_than_alpha(draws, alpha):
    """Vectors of length one on a line, in the plane and in 16 dimensions, with mean lengths from 0 to nearly 1."""
    rng = np.random.default_rng(2)
    for lean in (0.0, 0.5, 0.9, 0.99):
        signs = np.where(rng.random((1000, draws, 1)) < (1 + lean) / 2, 1.0, -1.0)
        noise = rng.normal(size=(1000, draws, 16)) + 8 * lean * np.eye(16)[0]
        noise /= np.linalg.norm(noise, axis=2, keepdims=True)
        for drawn in (signs, noise):
            means = drawn.mean(1)
            error = sampling_error(np.linalg.norm(means, axis=1), draws, alpha)
            assert (np.linalg.norm(means - drawn.mean((0, 1)), axis=1) > error).mean() <= alpha


def victim_of(network):
    return Victim(plain(network), (network,))


def test_of_a_linear_network_attributions_are_its_weights():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    x, target, rng = torch.rand(5, 1, 2, 2).double(), torch.tensor([0, 1, 2, 0, 1]), Rng(0, torch.arange(5))
    weights = network[1].weight.detach()[target].reshape(x.shape)
    for method, wanted in (("gradient", weights), ("integrated", x * weights)):
        found = attribution(plain(network), x, target, rng, method, 3)
        length = wanted.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        assert torch.allclose(found, wanted / length, atol=1e-6)
    certifier, threat = Attribution(samples=2000, top=1), Threat(Threat.ATTRIBUTION, 0.05)
    maps = certifier.mean_map(victim_of(network), x, target, rng, Work(64))
    assert (certifier.claims(maps.double().numpy(), threat).cosine > 0.9).all()


def test_no_image_in_the_ball_has_an_attribution_further_away_than_certified():
    """Networks of two pixels, whose averaged attributions are integrals over a disc: at 32 directions and 3 lengths."""
    certifier, claimed = Attribution(samples=4000, sigma=0.4, cosine=0.7, top=1), 0
    radius, ids = certifier.radius(2), torch.arange(1)
    steps = (torch.arange(160) + 0.5) / 160
    turn, length = 2 * torch.pi * steps[:, None], radius * steps.sqrt()[None, :]  # as much area for each point
    disc = torch.stack([length * turn.cos(), length * turn.sin()], 2).reshape(-1, 1, 1, 2)
    for seed in range(3):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2))
        victim, x, target = victim_of(network), torch.rand(1, 1, 1, 2), torch.zeros(1, dtype=torch.int64)

        def averaged(z, network=network):
            several = torch.zeros(len(disc), dtype=torch.int64)
            return attribution(plain(network), z + disc, several, Rng(0, ids), "gradient", 1).mean(0).flatten()

        (here,) = certifier.mean_map(victim, x, target, Rng(seed, ids), Work(4000))
        error = float(sampling_error(float(here.norm()), certifier.samples, certifier.alpha))
        assert float((here.flatten() - averaged(x)).norm()) <= error
        for eps in (0.1, 0.3, 0.6):
            claims = certifier.claims(here.double().numpy()[None], Threat(Threat.ATTRIBUTION, eps))
            angles = 2 * torch.pi * torch.arange(32) / 32
            moved = [x + eps * torch.stack([a.cos(), a.sin()]).reshape(x.shape) for a in angles]
            least = min(float(nn.functional.cosine_similarity(here.flatten(), averaged(z), dim=0)) for z in moved)
            assert least >= claims.cosine[0] - 1e-6
            assert least >= certifier.cosine or claims.radius[0] <= eps
            claimed += claims.cosine[0] > 0
    assert claimed > 4


def test_noise_is_uniform_in_the_ball():
    ids, number = torch.zeros(4000, dtype=torch.int64), torch.arange(4000)
    away = (in_ball(torch.zeros(4000, 1, 1, 3), 2.0, Rng(0, ids), number)).flatten(1)
    length = away.norm(dim=1) / 2
    assert float(length.max()) <= 1 + 1e-6
    assert float((length**3).mean()) == pytest.approx(0.5, abs=0.02)  # length^d is uniform
    assert away.mean(0).abs().max() < 0.06


WORDS = ["certifier=attribution", "dataset.limit=6", "certifier.samples=200", "runtime.progress=false"]


def composed(folder, *words):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return compose("run", [*WORDS, f"runs_dir={folder}", *words])


def run(folder, *words):
    choices = {"certifier": "attribution", "defense": "none", "model": "small_cnn"}
    return certify(composed(folder, *words), choices, "python run.py " + " ".join(WORDS))


def test_a_run_is_recorded_verified_and_drawn(tmp_path):
    done = run(tmp_path / "runs")
    told = "\n".join(certificate_lines(done))
    assert "keeps a cosine of 0.8" in told
    assert "top pixels kept" in told
    assert "p_A" not in told
    assert verify(done.run).verified
    site = tmp_path / "site"
    build(tmp_path / "runs", site)
    page = (site / "certificates.html").read_text()
    assert "attribution, cosine 0.8" in page
    assert len(list((site / "attributions").glob("*-map.png"))) == 6
    arrays, stages = done.run.read_staged_examples(0)
    assert stages == [MAPS]
    arrays["z"] = arrays["z"] * 0.5  # as if less agreed: what the records claim is too much
    done.run.write_examples(0, arrays, stages)
    problems = verify(done.run).problems
    assert any("gives the radius" in line for line in problems)
    assert any("gives the cosine" in line for line in problems)
    done.run.adversarial_path(0).unlink()
    assert any("attributions are missing" in line for line in verify(done.run).problems)


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["defense=gaussian_smoothing", "threat=attribution"], "deterministic"),
        (["certifier.samples=10"], "take more samples"),
        (["certifier.top=65"], "64 pixels"),
        (["certifier.method=saliency"], "choose one of gradient, integrated"),
        (["threat=l2"], "take threat=attribution"),
    ],
)
def test_what_cannot_be_certified_is_refused(tmp_path, words, cause):
    with pytest.raises(UserError, match=cause):
        run(tmp_path, *words)


def test_the_published_bound_is_an_estimate():
    maps, threat = np.full((1, 1, 2, 2), 0.4), Threat(Threat.ATTRIBUTION, 0.1)
    ours, theirs = (kind(top=1).claims(maps, threat) for kind in (Attribution, PublishedAttribution))
    assert PublishedAttribution.kind == "estimate"
    assert theirs.cosine > ours.cosine
    assert theirs.radius > ours.radius

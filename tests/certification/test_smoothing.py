"""Certificates against what is known exactly, and against the way they are computed."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from gauntlet.certification.certifiable import Smoothed
from gauntlet.certification.certifier import Work
from gauntlet.certification.noise import Gaussian
from gauntlet.certification.sequential_test import Stopping
from gauntlet.certification.smoothing import Smoothing
from gauntlet.errors import UserError
from gauntlet.models.normalize import Normalize
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim
from tests.certification.conftest import Coins, HalfSpace, certify, victim_of

WORK = Work(512)


def test_the_radius_of_a_half_space_is_the_distance_to_its_boundary(line):
    victim, x = line
    certifier = Smoothing(alpha=0.05, samples=400, selection=20)
    found = certify(certifier, victim, x.expand(500, 1, 1, 4), Work(4096))
    assert (found.predict == 1).all()
    failures = int((found.radius > 0.3).sum())
    assert 0 < failures <= stats.binom.ppf(0.999, 500, 0.05)
    exact = certify(Smoothing(samples=20_000), victim, x, WORK)
    assert 0.285 < float(exact.radius) <= 0.3


def test_a_band_has_the_share_of_two_normal_tails():
    class Band(nn.Module):
        def forward(self, x):
            inside = (x.flatten(1)[:, 0].abs() < 0.2).float()
            return torch.stack([1 - inside, inside], 1)

    victim = victim_of(Smoothed(Band(), Gaussian(0.25)))
    found = certify(Smoothing(samples=2000, alpha=0.001), victim, torch.full((1, 1, 1, 3), 0.05), WORK)
    share = stats.norm.cdf(0.15 / 0.25) - stats.norm.cdf(-0.25 / 0.25)
    assert abs(int(found.counts) / 2000 - share) < 4 * np.sqrt(share * (1 - share) / 2000)


def test_a_constant_network_is_certified_up_to_the_cap_of_its_draws():
    victim = victim_of(Smoothed(HalfSpace([0.0], -1.0), Gaussian(0.5)))
    found = certify(Smoothing(samples=1000), victim, torch.zeros(2, 1, 1, 1), WORK)
    assert found.radius.tolist() == [pytest.approx(0.5 * stats.norm.ppf(0.001**0.001), abs=1e-6)] * 2
    assert (found.radius <= 0.5 * stats.norm.ppf(0.001**0.001)).all()
    assert found.samples.tolist() == [1100, 1100]
    assert found.forwards.tolist() == [1100, 1100]
    assert (found.counts.tolist(), found.trials.tolist()) == ([[1000], [1000]], [1000, 1000])


def test_randomized_bounds_depend_on_seed_and_sample_alone_and_are_larger():
    shares = np.linspace(0.7, 1, 40)
    victim, x = victim_of(Coins(shares=shares)), torch.zeros(40, 1, 1, 1)
    plain, drawn = Smoothing(samples=300), Smoothing(samples=300, bound="randomized")
    wanted, found = certify(plain, victim, x, WORK), certify(drawn, victim, x, WORK)
    assert torch.equal(wanted.counts, found.counts)
    assert (found.radius >= wanted.radius).all()
    assert (found.radius > wanted.radius).sum() > 30
    assert torch.equal(certify(drawn, victim, x, Work(33)).radius, found.radius)
    assert not torch.equal(certify(drawn, victim, x, WORK, seed=1).lower, found.lower)
    with pytest.raises(UserError, match="rule=fixed"):
        Smoothing(rule="single_phase", bound="randomized")


def test_a_coin_gets_no_prediction():
    mechanism = Coins(shares=np.full(200, 0.5))
    found = certify(
        Smoothing(alpha=0.05, samples=200, selection=10), victim_of(mechanism), torch.zeros(200, 1, 1, 1), WORK
    )
    assert int((found.predict >= 0).sum()) <= stats.binom.ppf(0.999, 200, 0.05)
    assert (found.radius[found.predict < 0] == 0).all()


def test_the_votes_that_choose_the_class_never_bound_it():
    class Roulette(nn.Module):
        def forward(self, x):
            number = (x.flatten(1)[:, 0].double() * 1e5).remainder(1.0) * 1000
            return nn.functional.one_hot(number.long().clamp(0, 999), 1000).float()

    victim = victim_of(Smoothed(Roulette(), Gaussian(1.0)), classes=1000)
    found = certify(Smoothing(alpha=0.05, samples=100, selection=100), victim, torch.zeros(100, 1, 1, 1), WORK)
    over = int((found.counts[:, 0] >= 1).sum())  # a bound above 1/1000 needs at least a hit
    assert over <= stats.binom.ppf(0.999, 100, 1 - 0.999**100)
    assert (found.predict == -1).all()


@pytest.mark.parametrize("certifier", [Smoothing(samples=301), Smoothing(samples=2000, rule="grid", selection=30)])
def test_the_answer_does_not_depend_on_passes_or_batch_mates(line, certifier):
    victim, x = line
    x = torch.cat([x * scale for scale in (1.0, 0.2, -0.6, 0.01, 3.0)])
    whole = certify(certifier, victim, x, Work(7))
    for size in (64, 1000):
        again = certify(certifier, victim, x, Work(size))
        assert torch.equal(whole.counts, again.counts)
        assert torch.equal(whole.radius, again.radius)
        assert torch.equal(whole.samples, again.samples)
    alone = certify(certifier, victim, x[:1], Work(50))
    assert torch.equal(alone.radius, whole.radius[:1])
    assert not torch.equal(certify(certifier, victim, x, Work(64), seed=1).counts, whole.counts)


def test_work_is_told_of_every_image_and_every_pass(line):
    victim, x = line
    told = []
    found = certify(Smoothing(samples=150), victim, x.expand(5, 1, 1, 4), Work(64, lambda *each: told.append(each)))
    assert sum(finished for finished, _ in told) == 5
    assert sum(forwards for _, forwards in told) == int(found.forwards.sum()) == 5 * 250


def test_the_radius_is_in_pixels_whatever_the_normalisation(line):
    _, x = line
    w = torch.tensor([3.0, 0.0, 4.0, 0.0])
    found = []
    for std in (0.5, 1.0):
        network = nn.Sequential(Normalize([0.0], [std], 1), HalfSpace(w))
        found.append(certify(Smoothing(samples=500), victim_of(Smoothed(network, Gaussian(0.25))), x, WORK))
    assert torch.equal(found[0].counts, found[1].counts)
    assert torch.equal(found[0].radius, found[1].radius)


def test_sequential_rules_agree_with_all_draws_and_use_fewer():
    shares = np.concatenate([np.linspace(0.3, 0.999, 60), np.full(20, 1.0)])
    victim, x = victim_of(Coins(shares=shares)), torch.zeros(80, 1, 1, 1)
    fixed = certify(Smoothing(samples=5000), victim, x, Work(4096))
    for rule, radii in (("decide", [1.0]), ("grid", [0.0, 0.5, 1.0, 1.5])):
        found = certify(Smoothing(samples=5000, rule=rule, radii=radii), victim, x, Work(4096))
        for asked in radii:
            if asked == 0:
                continue
            lost = (fixed.radius >= asked) & (found.radius < asked)
            assert int(lost.sum()) <= 3
            assert int(((fixed.radius < asked) & (found.radius >= asked)).sum()) == 0
        assert found.samples.sum() < fixed.samples.sum() / 2
        true = stats.norm.ppf(np.maximum(shares, 1 - shares))
        assert (found.radius.numpy() <= true).all()
        assert set(found.stop) <= {"certified", "futility", "budget"}


def test_a_look_sees_the_votes_of_exactly_its_draws(monkeypatch):
    seen = []
    ended = Stopping.ended

    def spy(self, at, look, votes):
        seen.extend((votes.sum(2) == self.looks[look]).ravel().tolist())
        return ended(self, at, look, votes)

    monkeypatch.setattr(Stopping, "ended", spy)
    x = torch.zeros(9, 1, 1, 1)
    victim = victim_of(Coins(shares=np.linspace(0.6, 1, 9)))
    certify(Smoothing(samples=700, rule="grid", radii=[0.2, 0.9]), victim, x, Work(130))
    assert all(seen)
    assert len(seen) > 30


def test_single_phase_chooses_by_the_same_votes(line):
    victim, x = line
    found = certify(Smoothing(samples=500, rule="single_phase"), victim, x, WORK)
    assert found.samples.tolist() == [500]
    assert float(found.radius) == pytest.approx(
        0.25 * stats.norm.ppf(stats.beta.ppf(0.0005, int(found.counts), 501 - int(found.counts))), abs=1e-6
    )


@pytest.mark.parametrize(
    ("knobs", "names"),
    [
        ({"alpha": 0.0}, "certifier.alpha"),
        ({"alpha": 1.0}, "certifier.alpha"),
        ({"samples": 0}, "certifier.samples"),
        ({"selection": -1}, "certifier.selection"),
        ({"selection": 0}, "certifier.selection"),
        ({"samples": 2**31}, "certifier.samples"),
        ({"rule": "single_phase", "radii": [1.0]}, "rule=single_phase gives every radius"),
        ({"rule": "often"}, "certifier.rule"),
        ({"radii": [1.0]}, "certifier.radii"),
        ({"rule": "decide", "radii": [1.0, 2.0]}, "certifier.radii"),
        ({"rule": "grid", "radii": [-1.0]}, "certifier.radii"),
        ({"ratio": 1.0}, "certifier.ratio"),
        ({"futility": 2.0}, "certifier.futility"),
    ],
)
def test_unfit_knobs_are_named(knobs, names):
    with pytest.raises(UserError, match=names):
        Smoothing(**knobs)


def test_so_few_samples_that_nothing_can_be_certified(line):
    victim, _ = line
    with pytest.raises(UserError, match="can certify no radius above 0"):
        Smoothing(samples=5).check(victim, Threat("l2", 1.0))
    with pytest.raises(UserError, match=r"no radius above 0\.6.*, 1 is asked"):
        Smoothing(samples=1000, rule="decide", first=1000).check(victim, Threat("l2", 1.0))


def test_a_defense_that_is_not_smoothed_and_a_threat_of_another_norm(line):
    with pytest.raises(UserError, match="defense=gaussian_smoothing"):
        Smoothing().check(Victim(lambda x, rng: x, ()), Threat("l2", 1.0))
    with pytest.raises(UserError, match="take threat=l2"):
        Smoothing().check(line[0], Threat("l1", 1.0))


def test_noise_of_no_width():
    for sigma in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="sigma"):
            Gaussian(sigma)

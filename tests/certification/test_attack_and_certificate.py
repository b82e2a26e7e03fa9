"""Attacks in the manner of SmoothAdv against certificates: none may fall inside its ball, many fall well outside."""

import pytest
import torch
from scipy import stats

from gauntlet.attacks.patch_pgd import PatchPGD
from gauntlet.attacks.pgd import PGD
from gauntlet.certification.band_ablation import Bands
from gauntlet.certification.certifiable import Smoothed
from gauntlet.certification.certifier import Work
from gauntlet.certification.noise import Gaussian
from gauntlet.certification.patches import Patches
from gauntlet.certification.sequential_test import Stopping
from gauntlet.certification.smoothing import Smoothing
from gauntlet.certification.vote_sampling import count
from gauntlet.data.digits import Digits
from gauntlet.defenses.band_smoothing import BandSmoothing
from gauntlet.defenses.smoothing_heads import smoothed
from gauntlet.models import checkpoint
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.patch import PatchThreat
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.training.weights_cache import ZOO
from tests.certification.conftest import HalfSpace

WORK = Work(1024)


def attacked(victim, head, x, y, ids, eps, steps=10):
    """PGD on a head, with a radius for each image."""
    metered = CountedHead(head, victim.predict, Counts.of(ids), trials=10)
    threat = Threat("l2", 1.0).scaled(eps)
    return PGD(steps=steps, loss="ce")(metered, x, y, threat=threat, rng=Rng(3, ids, "attack"))


def votes(mechanism, x, ids, draws, classes):
    plan = Stopping(mechanism.radius, 0.001, len(x), 1, 0, (draws,))
    return count(mechanism, x, Rng(7, ids, "judge"), classes, plan, WORK).votes[:, 0]


def test_a_certified_digit_keeps_its_majority_under_attack():
    network = SmallCNN(10, 1, 8).eval().requires_grad_(False)
    checkpoint.load(network, ZOO / "digits_small_cnn_gaussian.safetensors")
    victim = smoothed(network, Gaussian(0.25), (4,))
    split = Digits(name="digits", classes=10, channels=1, size=8, budgets={"l2": 1.0}).split("test")
    batch = split.read(slice(0, 12))
    order = batch.ids.argsort()
    ids, x, y = (t[order] for t in batch)
    threat = Threat("l2", 1.0)
    found = Smoothing(samples=300)(victim, x, None, threat=threat, rng=Rng(0, ids, "certificate"), work=WORK)
    sure = (found.predict == y) & (found.radius > 0)
    assert sure.sum() >= 8
    ids, x, y, radius = ids[sure], x[sure], y[sure], found.radius[sure].float()
    for head in victim.heads:
        z = attacked(victim, head, x, y, ids, 0.999 * radius)
        assert ((z - x).flatten(1).norm(dim=1) <= radius).all()
        hits = votes(victim.mechanism, z, ids, 10_000, 10)[torch.arange(len(y)), y]
        assert (stats.binom.cdf(hits, 10_000, 0.5) > 1e-4).all()  # a majority, as far as so many draws can tell
    far = attacked(victim, victim.heads[1], x, y, ids, radius + 1.5)
    fallen = votes(victim.mechanism, far, ids, 400, 10).argmax(1) != y.numpy()
    assert fallen.mean() > 0.5


@pytest.mark.parametrize(("share", "falls"), [(0.97, False), (1.03, True)])
def test_a_half_space_falls_just_beyond_its_distance(share, falls):
    network = HalfSpace([3.0, 0.0, 4.0, 0.0], 2.0)
    victim = smoothed(network, Gaussian(0.25), (8,))
    x = torch.full((1, 1, 1, 4), 0.5)  # at distance 0.3 of the boundary
    ids, y = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long)
    z = attacked(victim, victim.heads[-1], x, y, ids, torch.tensor([0.3 * share]), steps=80)
    counts = votes(Smoothed(network, Gaussian(0.25)), z, ids, 20_000, 2)
    assert (counts[0].argmax() != 1) == falls


def test_no_patch_of_a_certified_side_is_found_on_digits():
    network = SmallCNN(10, 1, 8).eval().requires_grad_(False)
    checkpoint.load(network, ZOO / "digits_small_cnn_bands.safetensors")
    victim = BandSmoothing({"model": network}, Bands(2, 8, 0.3)).deploy({"model": network})
    ids, x, y = Digits(name="digits", classes=10, channels=1, size=8, budgets={}).split("test").read(slice(0, 24))
    order = ids.argsort()
    ids, x, y = ids[order], x[order], y[order]
    found = Patches()(victim, x, None, threat=PatchThreat(), rng=Rng(0, ids), work=WORK)
    for side in (1, 2):
        threat = PatchThreat(eps=side)
        counted = CountedHead(victim.heads[2], victim.predict, Counts.of(ids))
        z = PatchPGD("gradient", steps=6, locations=2)(counted, x, y, threat=threat, rng=Rng(5, ids, "attack"))
        broken = threat.contains(z, x) & (victim.predict(z, Rng(0, ids)).argmax(1) != y)
        right = found.predict == y
        assert not (broken & right & (found.radius >= side)).any()
        assert (right & (found.radius >= side)).sum() >= 3
        assert (broken & right).sum() >= 2 * side

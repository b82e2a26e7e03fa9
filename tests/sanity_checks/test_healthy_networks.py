"""No red flag on the shipped networks, nor on public ones that nobody here trained."""

import pytest
import torch

from benchmarks.flags import THREATS, Backwards, images, load, measured, shipped
from gauntlet.attacks.pgd import PGD
from gauntlet.data.digits import Digits
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.models.checkpoint import load as load_weights
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.sanity_checks import of_victim
from gauntlet.sanity_checks.gradients import MISMATCH, SHATTERED, mismatch, unrelated
from gauntlet.sanity_checks.probe import Probe
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim


@pytest.mark.parametrize("recipe", ["standard", "pgd_at", "trades"])
def test_the_shipped_networks_have_no_flag(recipe):
    network = SmallCNN(10, 1, 8)
    load_weights(network, f"gauntlet/models/zoo/digits_small_cnn_{recipe}.safetensors")
    network.eval().requires_grad_(False)
    batch = Digits().split("test").read(slice(0, 64))
    for factor in (1, 1000):
        victim = Victim(lambda x, rng, factor=factor: factor * network(x), (network,))
        run = Evaluation(victim, ("pgd", PGD(loss="margin")), Threat("linf", 0.15), 10)
        rows = evaluate_chunk(run, batch).rows.to_pandas()
        survivors = set(rows[(rows["stage"] == "pgd/true") & ~rows["broken"]]["sample"])
        assert of_victim(run, batch, survivors) == []


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_gradients_of_the_shipped_networks_belong_to_them_in_every_norm(norm):
    torch.set_num_threads(1)
    data = Digits()
    batch = data.split("test").read(slice(0, 64))
    threat = Threat(norm, data.budgets[norm])
    for name, network in shipped().items():
        linearity = linearity_of(network, threat, batch)
        assert mismatch(linearity) < MISMATCH / 2, name
        assert unrelated(linearity) < SHATTERED / 2, name
    hidden = linearity_of(lambda x: network(Backwards.apply(x)), threat, batch)
    assert mismatch(hidden) > 1.5 * MISMATCH


def test_the_scale_of_the_logits_changes_no_number():
    batch = Digits().split("test").read(slice(0, 16))
    network = shipped()["trades"]
    one, other = (
        linearity_of(lambda x, factor=factor: factor * network(x), Threat("linf", 0.15), batch)
        for factor in (1.0, 1e-20)
    )
    assert unrelated(other) == unrelated(one)
    assert mismatch(other) == pytest.approx(mismatch(one), abs=1e-3)


def linearity_of(forward, threat, batch):
    run = Evaluation(Victim(lambda x, rng: forward(x), ()), ("pgd", PGD(steps=1)), threat, 10)
    return Probe(run, batch, set()).linearity


@pytest.mark.shared
@pytest.mark.parametrize("name", THREATS)
def test_public_networks_have_no_flag(shared, name):
    torch.set_num_threads(1)
    _, flags, _ = measured(load(shared).load(name), Threat(*THREATS[name]), images(shared, name))
    assert flags == []

"""No red flag on the shipped networks, nor on public ones that nobody here trained."""

import pytest
import torch

from benchmarks.flags import THREATS, images, load, measured
from gauntlet.attacks.pgd import PGD
from gauntlet.data.digits import Digits
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.models.checkpoint import load as load_weights
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.sanity_checks import of_victim
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
        standing = set(rows[(rows["stage"] == "pgd/true") & ~rows["broken"]]["sample"])
        assert of_victim(run, batch, standing) == []


@pytest.mark.shared
@pytest.mark.parametrize("name", THREATS)
def test_public_networks_have_no_flag(shared, name):
    torch.set_num_threads(1)
    _, flags, _ = measured(load(shared).load(name), Threat(*THREATS[name]), images(shared, name))
    assert flags == []

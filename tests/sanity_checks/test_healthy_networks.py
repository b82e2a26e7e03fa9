"""No red flag on the shipped networks, nor on public ones that nobody here trained."""

import pytest
import torch

from attacks.pgd import PGD
from benchmarks.flags import THREATS, images, load, measured
from harness.checkpoint import load as load_weights
from harness.checks import of_victim
from harness.data.digits import Digits
from harness.evaluate import Evaluation
from harness.threat import Threat
from harness.victim import Victim
from models.small_cnn import SmallCNN


@pytest.mark.parametrize("recipe", ["standard", "pgd_at", "trades"])
def test_the_shipped_networks_have_no_flag(recipe):
    network = SmallCNN(10, 1, 8)
    load_weights(network, f"models/zoo/digits_small_cnn_{recipe}.safetensors")
    network.eval().requires_grad_(False)
    batch = Digits().split("test").read(slice(0, 64))
    for factor in (1, 1000):
        victim = Victim(lambda x, rng, factor=factor: factor * network(x), (network,))
        run = Evaluation(victim, ("pgd", PGD(loss="margin")), Threat("linf", 0.15), 10)
        rows = run.chunk(batch).rows.to_pandas()
        standing = set(rows[(rows["stage"] == "pgd/true") & ~rows["broken"]]["sample"])
        assert of_victim(run, batch, standing) == []


@pytest.mark.shared
@pytest.mark.parametrize("name", THREATS)
def test_public_networks_have_no_flag(shared, name):
    torch.set_num_threads(1)
    _, flags, _ = measured(load(shared).load(name), Threat(*THREATS[name]), images(shared, name))
    assert flags == []

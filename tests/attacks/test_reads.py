"""The gradient attacks read about once for each pass: on an accelerator each read waits for all passes before it."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from benchmarks.occupancy import Sizes, counted
from gauntlet.config.shipped import CONF
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain
from tests.attacks.conftest import Case, Crooked

NEAR = {"linf": 0.004, "l2": 0.06, "l1": 1.0, "l0": 1.0}  # so that most samples stay to the end
ATTACKS = {
    "pgd": ("linf", "l2", "l1"),
    "pma": ("linf", "l2", "l1"),
    "apgd": ("linf", "l2", "l1"),
    "malt attack.targets=2": ("linf", "l2", "l1"),
    "fab attack.targets=2": ("linf", "l2", "l1"),
    "fab attack.targets=0": ("linf", "l2", "l1"),
    "fmn": ("linf", "l2", "l1", "l0"),
    "ddn": ("l2",),
    "pdpgd": ("linf", "l2", "l1"),
    "sigma_zero": ("l0",),
    "mi": ("linf", "l2", "l1"),
}
RUNS = [(words, norm, NEAR[norm]) for words, norms in ATTACKS.items() for norm in norms]
FAR = [(words, norm, "unbounded") for words, norm, _ in RUNS if words.split()[0] in ("fmn", "ddn", "pdpgd", "fab")]
MOST = {
    "l1": 1.6, "pma l1": 2.5, "fmn l1": 2.5, "mi l1": 2.0, "mi l2": 2.0, "apgd l2": 1.6,
    "malt attack.targets=2 l2": 1.6,
}  # fmt: skip
"""Reads for each pass where they are more than one: a projection that takes more rounds than usual, or comes after what
is read, is read by itself."""


class Wide(nn.Module):
    """3x12x12 pixels to five logits: on a few pixels, projections take more rounds than usual."""

    def __init__(self):
        super().__init__()
        rng = Rng(7, torch.arange(1), "weights")
        self.first, self.second = rng.normal((432, 24))[0] / 20, rng.stream("2").normal((24, 5))[0] / 2

    def forward(self, x):
        return torch.relu((x - 0.5).flatten(1) @ self.first) @ self.second


@pytest.mark.parametrize(("words", "norm", "eps"), RUNS + FAR)
def test_it_reads_about_once_for_each_pass(words, norm, eps):
    name, *knobs = words.split()
    with initialize_config_dir(CONF, version_base=None):
        node = compose(f"attack/{name}", overrides=[*knobs, "attack.steps=40"]).attack
    attack, network, case = instantiate(node, _convert_="all"), Sizes(Wide()), Case(Crooked())
    case.victim = Victim(plain(network), (network,))
    case.x = Rng(0, case.ids, "images").uniform((3, 12, 12), -0.2, 1.2).clamp(0, 1)
    case.y = Wide()(case.x).argmax(1)
    with counted(attack) as counts:
        case.attack(attack, Threat(norm, eps))
    assert len(network.seen) >= 40
    most = MOST.get(f"{words} {norm}", MOST.get(norm, 1.0))
    assert counts.reads <= most * len(network.seen) + 6

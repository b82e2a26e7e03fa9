"""Attacks that are a choice of knobs: what their papers say, and what they cost."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from gauntlet.config.shipped import CONF
from gauntlet.threat_model.threat import Threat


def built(name):
    with initialize_config_dir(CONF, version_base=None):
        return instantiate(compose(f"attack/{name}").attack, _convert_="all")


@pytest.mark.parametrize(("name", "steps", "targets"), [("mm3", 20, 3), ("mm9", 20, 9), ("mm_plus", 100, 9)])
def test_minimum_margin_attacks(name, steps, targets, case):
    attack = built(name)
    assert (attack.steps, attack.targets, attack.loss, attack.restarts) == (steps, targets, "margin", 1)
    _, counts = case.attack(attack, Threat("linf", 1e-6))
    runs = min(targets, 4)  # the network has five classes
    assert counts.backwards.tolist() == [runs * (steps + 1)] * len(case.ids)
    assert counts.forwards.tolist() == [runs * (steps + 1) + 1] * len(case.ids)


def test_mifpe(case):
    attack = built("mifpe")
    assert (attack.steps, attack.step_size, attack.schedule, attack.loss) == (100, 2.0, "linear", "mifpe")
    z, counts = case.attack(attack, Threat("linf", 1e-6))
    assert counts.backwards.tolist() == [100] * len(case.ids)
    assert torch.isfinite(z).all()

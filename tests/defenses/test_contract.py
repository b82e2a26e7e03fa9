"""Every YAML of conf/defense keeps the contract of a defense. A new defense is tested on arrival."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from attacks.pgd import PGD
from harness.compose import build, checked
from harness.evaluate import Evaluation
from harness.meter import Counts, MeteredHead
from harness.prepare import KEYS
from harness.rng import Rng
from harness.threat import Threat
from models.folding import folded

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "defense").glob("*.yaml"))

SHRUNK = {"copies": [2], "draws": 3}
"""Budgets of randomised defenses that are smaller here than by default."""


class Deployed:
    """A defense over networks as they are built, without training."""

    def __init__(self, name, double=False):
        GlobalHydra.instance().clear()
        with initialize_config_module("conf", version_base=None):
            cfg = checked(compose("run", [f"defense={name}"]), KEYS)
        for number, part in enumerate(cfg.defense.parts.values()):
            part.weights, part.seed = "included", number  # parts with the same weights would be copies of one network
        cfg.defense.update({knob: value for knob, value in SHRUNK.items() if knob in cfg.defense})
        self.dataset = build(cfg.dataset)
        self.defense = build(cfg.defense)
        self.models = {}
        for part_name, part in self.defense.parts.items():
            given = {other: self.models[other] for other in part.uses}
            module = part.load(self.dataset, Path("unused"), given=given, progress=False).module
            self.models[part_name] = module
        if double:
            for module in self.models.values():
                module.double()
        self.victim = self.defense.deploy(self.models)
        for module in self.victim.modules:
            module.eval()
        batch = self.dataset.split("test").read(slice(0, 16))
        self.ids, self.x, self.y = batch.ids, batch.x.double() if double else batch.x, batch.y

    def rng(self, at=slice(None)):
        return Rng(0, self.ids[at], "test")


@pytest.fixture(params=NAMES)
def deployed(request):
    return Deployed(request.param)


def test_predictions_are_scores_of_every_class(deployed):
    with torch.no_grad():
        scores = deployed.victim.predict(deployed.x, deployed.rng())
    assert scores.shape == (16, deployed.dataset.classes)
    assert scores.isfinite().all()
    assert scores.dtype == torch.float32


def test_the_true_head_is_the_deployed_forward(deployed):
    head = deployed.victim.heads[0]
    assert (head.name, head.exact) == ("true", True)
    assert not any(other.exact for other in deployed.victim.heads[1:])
    assert len({other.name for other in deployed.victim.heads}) == len(deployed.victim.heads)
    with torch.no_grad():
        assert torch.equal(
            head.forward(deployed.x, deployed.rng()), deployed.victim.predict(deployed.x, deployed.rng())
        )


def test_predictions_depend_on_nothing_but_the_image_and_the_stream(deployed):
    victim, x, state = deployed.victim, deployed.x, torch.get_rng_state()
    with torch.no_grad():
        whole = victim.predict(x, deployed.rng())
        assert torch.equal(whole, victim.predict(x, deployed.rng()))
        order = torch.arange(15, -1, -1)
        assert torch.allclose(victim.predict(x[order], deployed.rng(order)), whole[order], atol=1e-5)
        assert torch.allclose(victim.predict(x[:1], deployed.rng(slice(0, 1))), whole[:1], atol=1e-5)
        if not victim.randomized:
            assert torch.equal(whole, victim.predict(x, Rng(9, deployed.ids, "other")))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_the_true_head_is_the_finite_difference(name):
    deployed = Deployed(name, double=True)
    head, x = deployed.victim.heads[0], deployed.x[:4].clamp(0.05, 0.95)
    rng = deployed.rng(slice(0, 4))
    weight = Rng(1, deployed.ids[:4], "weight").normal((10,), dtype=torch.float64)
    direction = Rng(1, deployed.ids[:4], "direction").normal((1, 8, 8), dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((head.forward(leaf, rng) * weight).sum(), leaf)
    step = 1e-7
    with torch.no_grad():
        ahead, behind = ((head.forward(x + s * step * direction, rng) * weight).sum(1) for s in (1, -1))
    slope = (gradient * direction).flatten(1).sum(1)
    # Half of the bound of a central difference in float64; kinks of ReLU within the step are the rest.
    assert torch.allclose((ahead - behind) / (2 * step), slope, rtol=1e-4, atol=1e-5)


def test_every_head_has_a_gradient(deployed):
    for head in deployed.victim.heads:
        metered = MeteredHead(head, deployed.victim.predict, Counts.of(deployed.ids))
        y = deployed.victim.predict(deployed.x, deployed.rng()).argmax(1)
        z = PGD(steps=2)(metered, deployed.x, y, threat=Threat("linf", 1e-4), rng=deployed.rng())
        assert Threat("linf", 1e-4).contains(z, deployed.x).all()
        assert (metered.counts.zero_gradients == 0).all(), head.name
        assert (metered.counts.bad_gradients == 0).all(), head.name


def test_an_unlimited_attack_leaves_nothing(deployed):
    y = deployed.victim.predict(deployed.x, deployed.rng()).argmax(1)
    attack = PGD(steps=20, loss="margin") if deployed.victim.randomized else PGD(steps=60, loss="margin", restarts=3)
    run = Evaluation(deployed.victim, ("pgd", attack), Threat("linf", 1.0), 10)
    rows = run.chunk(type(deployed.dataset.split("test").read([0]))(deployed.ids, deployed.x, y)).rows.to_pandas()
    assert rows[rows["broken"]]["sample"].nunique() == 16


def test_the_folded_twin_is_the_same_defense(deployed):
    twin = deployed.defense.deploy({name: folded(module) for name, module in deployed.models.items()})
    for head, other in zip(deployed.victim.heads, twin.heads, strict=True):
        assert head.name == other.name
        with torch.no_grad():
            one, two = head.forward(deployed.x, deployed.rng()), other.forward(deployed.x, deployed.rng())
        assert torch.allclose(one, two, atol=1e-4), head.name


def test_the_card_speaks(deployed):
    card = deployed.defense.card
    assert card.summary.endswith(".")
    assert card.forwards >= 1
    assert card.randomized == deployed.victim.randomized

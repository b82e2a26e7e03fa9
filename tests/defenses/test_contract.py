"""Every YAML of conf/defense keeps the contract of a defense. A new defense is tested on arrival.

The presets in full size, `*_cifar`, are the same classes with other constants: see test_full_size.py.
"""

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gauntlet.attacks.black_box.square import Square
from gauntlet.attacks.pgd import PGD
from gauntlet.certification.certifiable import Smoothed
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.data.dataset import Batch
from gauntlet.data.fitting import FittingImages
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.randomized_protocol import Protocol
from gauntlet.jobs.setup import KEYS
from gauntlet.models.batchnorm_folding import folded
from gauntlet.sanity_checks.probe import fidelity
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

DEFENSES = Path(CONF) / "defense"
NAMES = sorted(path.stem for path in DEFENSES.glob("*.yaml") if not path.stem.endswith("_cifar"))

COPIES, ANSWER = [2], 8
"""Noisy copies of a gradient and of a prediction here, where a defense takes more by default."""

DRAWS = 3
"""Draws of a gradient here."""


def configured(name):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        cfg = checked(compose("run", [f"defense={name}"]), KEYS)
    for number, part in enumerate(cfg.defense.parts.values()):
        part.weights, part.seed = "included", number  # parts with the same weights would be copies of one network
        if "partitions" in part:
            part.partitions = 3
    if cfg.defense.get("share", 0) is None:
        cfg.defense.share = 0.5  # what is chosen by images cannot be deployed without them
    if "copies" in cfg.defense:
        cfg.defense.copies = COPIES
        if "draws" in cfg.defense:
            cfg.defense.draws = min(cfg.defense.draws, ANSWER)
    return cfg


class Images(FittingImages):
    """The images that a defense fits itself to, in the precision of its networks."""

    def __init__(self, dataset, double):
        super().__init__(dataset, torch.device("cpu"))
        self.double = double

    def batches(self, part, most=None):
        for batch in super().batches(part, most):
            yield batch._replace(x=batch.x.double()) if self.double else batch


class Deployed:
    """A defense over networks as they are built, without training."""

    def __init__(self, name, double=False):
        self.name = name
        if double:
            other = one(name)
            self.dataset, self.defense, self.models = other.dataset, other.defense, copy.deepcopy(other.models)
            for module in self.models.values():
                module.double()
        else:
            self.load(configured(name))
        self.victim = few_draws(self.defense.fitted(self.models, Images(self.dataset, double)))
        for module in self.victim.modules:
            module.eval()
        batch = self.dataset.split("test").read(slice(0, 16))
        self.ids, self.x, self.y = batch.ids, batch.x.double() if double else batch.x, batch.y

    def load(self, cfg):
        self.dataset = build(cfg.dataset)
        self.defense = build(cfg.defense)
        self.models = {}
        for part_name, part in self.defense.parts.items():
            given = {other: self.models[other] for other in part.uses}
            module = part.load(self.dataset, Path("unused"), given=given, progress=False).module
            self.models[part_name] = module

    def rng(self, at=slice(None)):
        return Rng(0, self.ids[at], "test")

    def predicted(self):
        with torch.no_grad():
            return self.victim.predict(self.x, self.rng())

    def broken(self, attack, eps, heads="declared"):
        """The shares of the samples that are wrong as they are and that an attack breaks, by the defense's own word."""
        few = slice(0, 6 if self.victim.randomized else 16)
        batch = Batch(self.ids[few], self.x[few], self.predicted()[few].argmax(1))
        run = Evaluation(
            self.victim, ("attack", attack), Threat("linf", eps), 10, heads=heads, protocol=Protocol("expected", 10)
        )
        rows = evaluate_chunk(run, batch).rows.to_pandas()
        assert rows["error"].isna().all()  # of which an illegal candidate is one
        wrong = set(rows[rows["broken"] & (rows["stage"] == "clean")]["sample"])
        found = set(rows[rows["broken"]]["sample"]) - wrong
        return len(wrong) / len(batch.ids), len(found) / len(batch.ids)


def few_draws(victim):
    heads = tuple(replace(head, draws=min(head.draws, DRAWS)) for head in victim.surrogates)
    return replace(victim, surrogates=heads, draws=min(victim.draws, DRAWS))


@cache
def one(name, double=False):
    """No test changes its networks."""
    return Deployed(name, double)


@pytest.fixture(params=NAMES)
def deployed(request):
    return one(request.param)


def test_predictions_are_scores_of_every_class(deployed):
    scores = deployed.predicted()
    assert scores.shape == (16, deployed.dataset.classes)
    assert scores.isfinite().all()
    assert scores.dtype == torch.float32


def test_the_true_head_is_the_deployed_forward(deployed):
    head = deployed.victim.heads[0]
    assert (head.name, head.exact) == ("true", True)
    assert not any(other.exact for other in deployed.victim.heads[1:])
    assert len({other.name for other in deployed.victim.heads}) == len(deployed.victim.heads)
    with torch.no_grad():
        assert torch.equal(head.forward(deployed.x, deployed.rng()), deployed.predicted())


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
def test_the_gradient_of_every_head_is_the_finite_difference(name):
    deployed = one(name, double=True)
    x, rng = deployed.x[:4].clamp(0.05, 0.95), deployed.rng(slice(0, 4))
    weight = Rng(1, deployed.ids[:4], "weight").normal((10,), dtype=torch.float64)
    direction = Rng(1, deployed.ids[:4], "direction").normal((1, 8, 8), dtype=torch.float64)
    step = 1e-7
    for head in deployed.victim.heads:
        if head.stand_in:
            continue
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((head.forward(leaf, rng) * weight).sum(), leaf)
        with torch.no_grad():
            ahead, behind = ((head.forward(x + s * step * direction, rng) * weight).sum(1) for s in (1, -1))
        slope = (gradient * direction).flatten(1).sum(1)
        # Half of the bound of a central difference in float64; kinks of ReLU within the step are the rest.
        assert torch.allclose((ahead - behind) / (2 * step), slope, rtol=1e-4, atol=1e-5), head.name


@pytest.mark.parametrize("name", NAMES)
def test_acceptance_is_one_number_of_the_image_alone_with_its_own_gradient(name):
    deployed = one(name, double=True)
    accepts, few = deployed.victim.accepts, slice(0, 4)
    if accepts is None:
        pytest.skip("it always answers")
    x, rng = deployed.x[few].clamp(0.05, 0.95), deployed.rng(few)
    with torch.no_grad():
        whole = accepts(deployed.x, deployed.rng())
        assert whole.shape == (16,)
        assert torch.allclose(accepts(deployed.x[:1], deployed.rng(slice(0, 1))), whole[:1])
    direction = Rng(1, deployed.ids[few], "direction").normal((1, 8, 8), dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    views = [head.accepts for head in deployed.victim.surrogates if head.accepts] or [accepts]
    for view in views:  # where it has views, they are there because its own gradient says little
        (gradient,) = torch.autograd.grad(view(leaf, rng).sum(), leaf)
        assert gradient.isfinite().all()
        assert gradient.abs().flatten(1).amax(1).gt(0).all()
    if views == [accepts]:
        with torch.no_grad():
            ahead, behind = (accepts(x + s * 1e-7 * direction, rng) for s in (1, -1))
        slope = (gradient * direction).flatten(1).sum(1)
        assert torch.allclose((ahead - behind) / 2e-7, slope, rtol=1e-3, atol=1e-5)


def test_every_head_has_a_gradient(deployed):
    for head in deployed.victim.heads:
        metered = CountedHead(head, deployed.victim.predict, Counts.of(deployed.ids))
        y = deployed.predicted().argmax(1)
        z = PGD(steps=2)(metered, deployed.x, y, threat=Threat("linf", 1e-4), rng=deployed.rng())
        assert Threat("linf", 1e-4).contains(z, deployed.x).all()
        assert (metered.counts.zero_gradients == 0).all(), head.name
        assert (metered.counts.bad_gradients == 0).all(), head.name


def test_more_draws_make_the_gradient_as_much_surer(deployed):
    """The variance of a mean over n independent draws is 1/n of that of one."""
    if not deployed.victim.randomized:
        pytest.skip("it is deterministic")
    x, ids = deployed.x[:2], deployed.ids[:2]
    weight = Rng(1, ids, "weight").normal((10,))
    found = []
    for k in range(40):
        leaf = x.clone().requires_grad_()
        scores = deployed.victim.predict(leaf, Rng(0, ids, f"draw{k}"))
        found.append(torch.autograd.grad((scores * weight).sum(), leaf)[0])
    draws = torch.stack(found).double()
    alone, means = draws.var(0).sum(), draws.reshape(8, 5, *x.shape).mean(1).var(0).sum()
    assert alone > 0
    assert 0.4 < 5 * means / alone < 2.2


def test_an_attack_gets_nothing_for_nothing_and_everything_for_the_whole_box(deployed):
    wrong, found = deployed.broken(PGD(steps=1, loss="margin"), 1e-7, "true")
    assert found == 0
    assert not wrong or deployed.victim.randomized or deployed.victim.accepts  # other draws, or rejected when clean
    attack = PGD(steps=20, loss="margin") if deployed.victim.randomized else PGD(steps=60, loss="margin", restarts=3)
    assert sum(deployed.broken(attack, 1.0)) >= 0.8  # chance is a tenth


def test_queries_find_no_more_than_gradients(deployed):
    """Otherwise the gradients of the heads are masked. Of a randomized defense: by more than two standard errors."""
    random = deployed.victim.randomized
    _, white = deployed.broken(PGD(steps=1 if random else 10, loss="margin"), 0.1, "true" if random else "declared")
    _, black = deployed.broken(Square(queries=4 if random else 60), 0.1)
    assert black <= white + 2 * (0.25 / 6) ** 0.5 * random


def test_surrogates_are_measured_against_the_deployed_forward(deployed):
    y = deployed.predicted().argmax(1)
    run = Evaluation(deployed.victim, ("pgd", PGD()), Threat("linf", 0.1), 10)
    found = fidelity(run, Batch(deployed.ids, deployed.x, y))
    assert list(found) == [head.name for head in deployed.victim.surrogates]
    assert all(0 <= seen["agrees"] <= seen["of"] == 16 for seen in found.values())
    if not deployed.victim.randomized:  # the labels are what the defense says
        assert all(seen["agrees"] == seen["right"] for seen in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_the_way_to_a_file_and_to_another_type(name):
    deployed = one(name)
    models = {part: copy.deepcopy(module) for part, module in deployed.models.items()}
    for part, module in models.items():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.data.add_(1)
        kept = {name for name, _ in module.named_buffers()} - set(module.state_dict())
        module.load_state_dict(deployed.models[part].state_dict())
        for buffer in kept:  # constants from the configuration
            module.get_buffer(buffer).data.copy_(deployed.models[part].get_buffer(buffer))
        module.double().float()
    victim = few_draws(deployed.defense.deploy(models))
    with torch.no_grad():
        assert torch.equal(victim.predict(deployed.x, deployed.rng()), deployed.predicted())


def test_the_folded_twin_is_the_same_defense(deployed):
    if deployed.victim.accepts:
        pytest.skip("gradients come from the networks themselves")
    fused = deployed.defense.deploy({name: folded(module) for name, module in deployed.models.items()})
    for head, other in zip(deployed.victim.heads, fused.heads, strict=True):
        assert head.name == other.name
        with torch.no_grad():
            ours, theirs = (each.forward(deployed.x, deployed.rng()) for each in (head, other))
        assert torch.allclose(ours, theirs, atol=1e-4), head.name


def test_parameters_fitted_to_test_images_are_refused(deployed):
    if not hasattr(deployed.defense, "calibration"):
        pytest.skip("nothing is fitted")
    cfg = configured(deployed.name)
    cfg.defense.calibration.split = "test"
    with pytest.raises(UserError, match="test"):
        build(cfg.defense)


def test_the_card_speaks(deployed):
    card, mechanism = deployed.defense.card, deployed.victim.mechanism
    assert card.summary.endswith(".")
    assert card.claim
    assert card.as_dict().get("differs", "") == card.differs
    assert card.forwards >= 1
    assert card.randomized == deployed.victim.randomized
    if card.certificate != "none" or isinstance(mechanism, Smoothed):
        assert mechanism is not None
        assert card.certificate != "none"

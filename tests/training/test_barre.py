"""BARRE and BAT: who is attacked, who learns, where a member begins, and what all of it costs."""

from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import nn

from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.data import Batch
from gauntlet.errors import UserError
from gauntlet.jobs.setup import KEYS
from gauntlet.threat_model.rng import Rng
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.objectives.boosting import BARREObjective, Boosted, HalfStartPGD, MeanSoftmax, evenness
from gauntlet.training.objectives.objective import PGDAT
from gauntlet.training.trainer import TrainingRun
from gauntlet.training.weights_cache import training_key

ATTACK = HalfStartPGD(eps=0.15, steps=3)


def test_it_begins_in_half_the_ball(make_net, batch, rng):
    z = replace(ATTACK, steps=0)(make_net(), batch.x, batch.y, rng)
    away = (z - batch.x).abs()
    assert away.max() <= 0.075 + 1e-6
    assert away.max() > 0.07
    with pytest.raises(UserError, match="half the ball"):
        HalfStartPGD(eps=0.15, init="normal")


def test_the_examples_fool_the_whole_ensemble_and_only_the_last_member_learns(make_net, batch, rng):
    one, two = make_net(steps=20).eval(), make_net(steps=10)
    objective, state = BARREObjective(ATTACK, first=one), {k: v.clone() for k, v in one.state_dict().items()}
    z = objective.examples(two, batch.x, batch.y, rng)
    both = objective.classifier(two).eval()
    assert isinstance(both, MeanSoftmax)
    expected = (one(batch.x).softmax(1) + two(batch.x).softmax(1)) / 2
    torch.testing.assert_close(both(batch.x).exp(), expected)
    assert F.cross_entropy(both(z), batch.y) > F.cross_entropy(both(batch.x), batch.y)
    assert not torch.equal(z, BARREObjective(ATTACK).examples(two, batch.x, batch.y, rng))
    two.train()
    objective.losses(two, batch.x, batch.y, z, rng).mean().backward()
    assert all(weight.grad is None for weight in one.parameters())
    assert all(torch.equal(state[name], value) for name, value in one.state_dict().items())


def test_the_first_member_without_the_even_loss_is_adversarial_training(make_net, batch, rng):
    net = make_net().eval()
    mine, plain = BARREObjective(ATTACK), PGDAT(ATTACK)
    z = mine.examples(net, batch.x, batch.y, rng)
    assert torch.equal(z, plain.examples(net, batch.x, batch.y, rng))
    assert torch.equal(mine.losses(net, batch.x, batch.y, z, rng), plain.losses(net, batch.x, batch.y, z, rng))
    with pytest.raises(UserError, match="weight=-1"):
        BARREObjective(ATTACK, weight=-1.0)


def test_the_even_loss_is_least_where_the_wrong_classes_are_alike(make_net, batch, rng):
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    told = (-logits).softmax(1)[0]
    assert evenness(logits, torch.tensor([0]))[0] == pytest.approx(float(-(told[1].log() + told[2].log()) / 2))
    even = evenness(torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([0]))
    assert even < evenness(torch.tensor([[9.0, 1.0, -1.0]]), torch.tensor([0]))
    net, z = make_net().eval(), batch.x
    plain, more = (BARREObjective(ATTACK, weight=w).losses(net, batch.x, batch.y, z, rng) for w in (0.0, 2.0))
    torch.testing.assert_close(more, plain + 2 * evenness(net(z), batch.y))


def test_the_examples_of_table_1_ascend_both_losses(make_net, batch, rng):
    one, two = make_net(steps=20).eval(), make_net(steps=10).eval()
    both = MeanSoftmax([one, two])
    step = replace(ATTACK, steps=1, step_size=0.01, norm="l2", evenness=1.0)
    z = step(both, batch.x, batch.y, rng)
    start = replace(step, steps=0)(both, batch.x, batch.y, rng).requires_grad_()
    logits = both(start)
    probabilities, inverse = logits.softmax(1), (-logits).softmax(1)
    wrong = 1 - F.one_hot(batch.y, 10)
    value = -probabilities.log()[range(len(z)), batch.y] - (wrong * inverse.log()).sum(1) / 9
    (gradient,) = torch.autograd.grad(value.sum(), start)
    moved, way = (z - start).detach().flatten(1), gradient.flatten(1)
    inside = ((z > 1e-3) & (z < 1 - 1e-3)).flatten(1)  # where the box does not cut
    assert (F.cosine_similarity(moved * inside, way * inside) > 0.99).all()
    plain = replace(step, evenness=None)(both, batch.x, batch.y, rng)
    assert torch.equal(plain, replace(step, evenness=0.0)(both, batch.x, batch.y, rng))
    assert not torch.equal(plain, z)
    for name, value, words in (("evenness", -1.0, "evenness=-1"), ("loss", "margin", "loss=ce")):
        with pytest.raises(UserError, match=words):
            replace(step, **{name: value})


def test_table_1_is_a_recipe_and_the_knob_that_is_off_changes_no_key():
    def barre(*overrides):
        GlobalHydra.instance().clear()
        with initialize_config_dir(CONF, version_base=None):
            cfg = checked(compose("run", ["defense=barre", *overrides]), KEYS)
        first = cfg.defense.parts.first
        return OmegaConf.to_container(first.recipe.objective), build(cfg.defense).parts["first"]

    theirs, _ = barre("recipe@defense.parts.first.recipe=barre_table1")
    assert (theirs["weight"], theirs["attack"]["evenness"]) == (1.0, 1.0)
    assert (theirs["attack"]["steps"], theirs["attack"]["eps"]) == (10, "8/255")
    _, part = barre()
    older = OmegaConf.create(part.recipe)
    del older.objective.attack["evenness"]
    split = FewSplit()
    assert training_key(part.model, part.recipe, 0, split, {}) == training_key(
        part.model, OmegaConf.to_container(older), 0, split, {}
    )


class FewSplit:
    """A data set by its digest alone."""

    def split(self, part):
        return self

    def digest(self):
        return "none"

    def selection(self):
        return None


@dataclass(frozen=True)
class Few:
    """Random images of the size that the networks take."""

    channels: int = 1
    size: int = 8
    classes: int = 10
    name: str = "noise"
    ids: list[int] = field(default_factory=lambda: list(range(12)))

    def split(self, part):
        return self

    def read(self, positions):
        ids = torch.arange(12)[positions]
        return Batch(ids, Rng(0, ids).uniform((self.channels, self.size, self.size)), ids % self.classes)


def test_a_member_begins_with_the_weights_of_the_last_and_pays_for_all(make_net, make_recipe):
    one, two = make_net(steps=5).eval().requires_grad_(False), make_net()
    recipe = replace(make_recipe(3), objective=BARREObjective(ATTACK, first=one), batch_size=12, epochs=1)
    run = TrainingRun(two, Few(), recipe, 0, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    list(run.steps())
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    (epoch,) = run.history.epochs
    assert (epoch.forwards, epoch.backwards) == (2 * 3 + 1, 2 * 3 + 1)
    with pytest.raises(UserError, match="one model"):
        BARREObjective(ATTACK, first=one).begin(nn.Linear(2, 2))


def test_boosting_attacks_the_first_network_alone(make_net, batch, rng):
    one, two = make_net(steps=20).eval(), make_net()
    attack = InnerPGD(eps=0.15, steps=3)
    objective = Boosted(attack, first=one)
    z = objective.examples(two, batch.x, batch.y, rng)
    assert torch.equal(z, attack(one, batch.x, batch.y, rng.stream("attack")))
    with pytest.raises(UserError, match="second member"):
        Boosted(attack).examples(two, batch.x, batch.y, rng)


@pytest.mark.parametrize(("dataset", "model"), [("cifar10", "resnet18"), ("cifar100", "preact_resnet18")])
def test_five_members_in_full_size_make_their_steps(dataset, model):
    """The configuration of the paper, at a sixteenth of the width."""
    GlobalHydra.instance().clear()
    overrides = [
        "defense=barre", f"dataset={dataset}", f"model={model}", "model.width=4",
        "recipe@defense.parts.first.recipe=barre_cifar", "defense.members=[first,second,third,fourth,fifth]",
    ]  # fmt: skip
    with initialize_config_dir(CONF, version_base=None):
        cfg = checked(compose("run", overrides), KEYS)
    defense, models = build(cfg.defense), {}
    assert list(defense.parts) == ["first", "second", "third", "fourth", "fifth"]
    for name, part in defense.parts.items():
        assert OmegaConf.create(part.recipe).epochs == 100
        given = {other: models[other] for other in part.uses}
        recipe, network = part.built_recipe(given), part.first_network()
        assert recipe.objective.companions == tuple(models.values())
        run = TrainingRun(network, Few(3, 32, cfg.dataset.classes), recipe, 0, torch.device("cpu"))
        if name in ("first", "fifth"):
            run._update(run._train.read(list(range(8))))
            assert all(weight.isfinite().all() for weight in network.parameters())
        models[name] = network.eval().requires_grad_(False)
    assert defense.deploy(models).randomized

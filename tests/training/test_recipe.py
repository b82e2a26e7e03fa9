"""Recipes refuse what they cannot do, in words, before any work starts."""

from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from torch import nn

from gauntlet.errors import UserError
from gauntlet.training.model_selection import Scores, Selection

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": "adam"}, "sgd, nesterov, adamw"),
        ({"schedule": "cyclic"}, "cosine, step, linear, constant"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"ema": 1.0}, "ema"),
        ({"warmup": 1.0}, "warmup"),
        ({"milestones": [50]}, "shares"),
        ({"milestones": ["a"]}, "shares"),
        ({"crop": -1}, "crop"),
        ({"clip": -1.0}, "clip"),
        ({"precision": "float16"}, "bfloat16"),
        ({"objective": object()}, r"no examples\(\)"),
    ],
)
def test_values_out_of_range_are_named(change, words, make_recipe):
    with pytest.raises(UserError, match=words):
        make_recipe(**change)


@pytest.mark.parametrize(
    "change", [{"by": "test"}, {"steps": 0}, {"step_size": 0}, {"limit": 0}, {"eps": -0.1}, {"norm": "l3"}]
)
def test_unfit_selections_are_refused(change):
    with pytest.raises(UserError, match=r"recipe\.selection\."):
        Selection(**{"eps": 0.1, **change})


def test_optimizers_take_the_weights_that_take_part(make_recipe):
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    sgd = make_recipe(learning_rate=0.3).make_optimizer(net.parameters())
    assert isinstance(sgd, torch.optim.SGD)
    assert [group["lr"] for group in sgd.param_groups] == [0.3]
    assert sgd.param_groups[0]["params"] == [net.weight]
    assert isinstance(make_recipe(optimizer="adamw").make_optimizer(net.parameters()), torch.optim.AdamW)
    with pytest.raises(UserError, match="no weights"):
        make_recipe().make_optimizer([])


def test_the_best_epoch_is_the_last_of_the_most_robust():
    by_pgd, by_clean = Selection(eps=0.1), Selection(eps=0.1, by="clean")
    assert by_pgd.better(Scores(0.8, 0.6), Scores(0.9, 0.5))
    assert by_pgd.better(Scores(0.9, 0.5), Scores(0.9, 0.5))
    assert not by_pgd.better(Scores(0.8, 0.5), Scores(0.9, 0.5))
    assert by_clean.better(Scores(0.9, 0.1), Scores(0.8, 0.5))


def test_measuring_leaves_the_network_alone_and_repeats(few, make_net):
    net = make_net(steps=20).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    selection, split = Selection(eps=0.15, limit=40), few.split("validation")
    scores = [selection.measure(net, split, 0, torch.device("cpu"), attack=True) for _ in range(2)]
    assert scores[0] == scores[1]
    assert 0 <= scores[0].pgd <= scores[0].clean <= 1
    assert scores[0].clean * 40 == pytest.approx(round(scores[0].clean * 40))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    assert all(weight.requires_grad for weight in net.parameters())


DIFFERENT = {
    "standard": {"selection.by": "clean"},
    "pgd_at": {"weight_decay": 5e-3},
    "trades": {"weight_decay": 5e-3, "objective.attack.init": "normal", "objective.attack.loss": "kl"},
}


def _defaults(cls):
    for entry in fields(cls):
        if entry.default_factory is not MISSING:
            yield entry.name, entry.default_factory()
        elif entry.default is not MISSING:
            yield entry.name, entry.default


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_yaml_prints_the_defaults_but_for_what_makes_the_recipe(name):
    cfg = OmegaConf.load(CONF / "recipe" / f"{name}.yaml")
    found = {}
    for path, node in (
        ("", cfg),
        ("selection.", cfg.selection),
        ("objective.attack.", cfg.objective.get("attack", {})),
    ):
        for key, default in _defaults(get_object(node["_target_"])) if node else ():
            if node[key] != default:
                found[path + key] = node[key]
    assert found == DIFFERENT[name]

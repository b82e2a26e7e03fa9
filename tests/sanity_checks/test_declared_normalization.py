"""A network whose author declares a normalization is flagged where it does not get it, whoever normalizes."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gauntlet.attacks.fgsm import FGSM
from gauntlet.data.dataset import Batch
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.models.declared_normalization import missing_normalization
from gauntlet.models.wrapped import Wrapped
from gauntlet.sanity_checks import of_victim
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Net(nn.Module):
    """Declares what a test gives it."""

    def __init__(self, **facts):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 4)
        for name, value in facts.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.layer(x.mean((2, 3)))


class Own(nn.Module):
    """A normalization of the user's own."""

    def __init__(self, mean, std, network):
        super().__init__()
        self.register_buffer("m", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("s", torch.tensor(std).view(3, 1, 1))
        self.inner = network

    def forward(self, x):
        return self.inner((x - self.m) / self.s)


def declaring():
    return Net(pretrained_cfg={"mean": MEAN, "std": STD})


def lines(module, size=8):
    return missing_normalization(module, module, 3, size)


@pytest.mark.parametrize(
    "module",
    [
        Wrapped(declaring(), MEAN, STD),
        Wrapped(declaring(), MEAN, STD, resize=16, interpolation="bicubic", crop=8),
        Own(MEAN, STD, declaring()),
        Net(),
        Net(pretrained_cfg={"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        Net(pretrained_cfg={}),
    ],
)
def test_who_gets_what_is_declared_or_declares_nothing_has_no_line(module):
    assert lines(module) == []


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (declaring(), "mean [0, 0, 0], std [1, 1, 1]"),
        (Net(default_cfg={"mean": MEAN, "std": STD}), "mean [0, 0, 0], std [1, 1, 1]"),
        (Wrapped(declaring(), [0.5], [0.5]), "mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]"),
        (Own((0.5,) * 3, STD, declaring()), "mean [0.5, 0.5, 0.5], std [0.229, 0.224, 0.225]"),
    ],
)
def test_who_gets_another_normalization_is_told_both(module, found):
    (line,) = lines(module)
    assert "Net declares mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]" in line
    assert f"gets pixels with {found}" in line


def test_what_lies_beside_the_weights_of_a_network_of_transformers_counts(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    network = Net(config=SimpleNamespace(_name_or_path=str(tmp_path)))
    assert "preprocessor_config.json" in lines(network)[0]
    assert lines(Wrapped(network, MEAN, STD)) == []


@pytest.mark.parametrize(("wrap", "seen"), [(lambda net: net, True), (lambda net: Wrapped(net, MEAN, STD), False)])
def test_it_is_a_red_flag_of_a_run(wrap, seen):
    network = wrap(declaring()).eval()
    batch = Batch(torch.arange(4), torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
    run = Evaluation(Victim(plain(network), (network,)), ("fgsm", FGSM()), Threat("linf", 0.05), 4)
    evaluate_chunk(run, batch)
    assert ("missing-normalization" in {flag.name for flag in of_victim(run, batch, set())}) == seen

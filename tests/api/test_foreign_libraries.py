"""The attacks of the libraries themselves, where these are installed: pip install gauntlet-robustness[foreign]."""

import functools
import warnings

import pytest
import torch

from gauntlet import Threat, evaluate

EPS = 0.25
LINF = Threat("linf", EPS)


def library(name):
    """A library, imported without its own warnings; skips without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason="pip install gauntlet-robustness[foreign]", exc_type=ImportError)


def judged(net, digits, attack, threat=LINF):
    """What our judge says of an attack: some are broken, all inside the threat."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library says
        result = evaluate(net, digits.x, digits.y, threat=threat, attack=attack, limit=16)
    assert result.manifest["status"] == "done", result.errors
    assert threat.contains(result.x_adv, digits.x[:16]).all()
    with torch.no_grad():
        assert torch.equal(net(result.x_adv).argmax(1) != digits.y[:16], result.broken)
    return result


def test_torchattacks(net, digits):
    torchattacks = library("torchattacks")
    attack = torchattacks.PGD(net, eps=EPS, alpha=EPS / 10, steps=10)
    result = judged(net, digits, attack)
    assert result.broken.any()
    assert attack.model is net
    assert result.frame["forwards"].max() == 10
    assert result.frame["backwards"].max() == 10
    assert result.attack_names == ["torchattacks.PGD/true"]


def test_foolbox(net, digits):
    foolbox = library("foolbox")
    result = judged(net, digits, foolbox.attacks.LinfPGD(steps=10, rel_stepsize=0.1))
    assert result.broken.any()
    assert result.frame["backwards"].max() == 10
    near = judged(net, digits, foolbox.attacks.L2FMNAttack(steps=20), Threat("l2", "unbounded"))
    assert near.broken.all()


def test_art(net, digits):
    library("art")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            net, torch.nn.CrossEntropyLoss(), input_shape=(1, 8, 8), nb_classes=10, clip_values=(0, 1),
            device_type="cpu",
        )  # fmt: skip
        attack = ProjectedGradientDescentPyTorch(
            classifier, eps=EPS, eps_step=EPS / 10, max_iter=10, verbose=False, batch_size=16
        )
    assert judged(net, digits, attack).broken.any()


def test_adv_lib(net, digits):
    attacks = library("adv_lib.attacks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = judged(net, digits, functools.partial(attacks.fmn, norm=2, steps=20), Threat("l2", "unbounded"))
    assert result.broken.all()
    assert result.frame["backwards"].max() == 20

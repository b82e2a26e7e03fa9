"""Attacks of other libraries propose, and our judge decides; ours can be called as theirs are."""

import functools
import random
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

import gauntlet
from gauntlet import InputError, Threat, UserError, evaluate
from gauntlet.attacks.pgd import PGD
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.targets import targets_of
from gauntlet.threat_model.targeted import hits
from gauntlet.threat_model.victim import Victim

EPS = 0.25
LINF = Threat("linf", EPS)


def step(model, x, y, eps=EPS):
    """One step along the sign of the gradient."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y), leaf)
    return (x + eps * gradient.sign()).clamp(0, 1)


def kind(name, module, **methods):
    """A class of that library's calling convention."""
    return type(name, (), {"__module__": module, **methods})


def torchattacks_like(net):
    def start(self, model, eps):
        self.model, self.eps = model, eps

    def call(self, inputs, labels=None):
        assert isinstance(self.model, nn.Module)
        assert not self.model.training
        return step(self.model, inputs, labels, self.eps)

    return kind("FGSM", "torchattacks.attacks.fgsm", __init__=start, __call__=call)(net, EPS)


def foolbox_like(net):
    def call(self, model, inputs, criterion, *, epsilons, **rest):
        z = step(model.network, inputs, criterion, epsilons)
        return z, z, model.network(z).argmax(1) != criterion

    return kind("LinfPGD", "foolbox.attacks.projected", __call__=call)()


def art_like(net):
    estimator = types.SimpleNamespace(model=net)

    def generate(self, x, y=None):
        assert isinstance(x, np.ndarray)
        return step(self.estimator.model, torch.from_numpy(x), torch.from_numpy(y)).numpy()

    return kind("FastGradientMethod", "art.attacks.evasion.fgm", estimator=estimator, generate=generate)()


def adv_lib_like(net):
    def pgd(model, inputs, labels, eps, targeted=False):
        assert not targeted
        return step(model, inputs, labels, eps)

    return functools.partial(pgd, eps=EPS)


FORMS = {
    "torchattacks": torchattacks_like,
    "foolbox": foolbox_like,
    "art": art_like,
    "adv-lib": adv_lib_like,
    "function of three": lambda net: step,
    "function of two": lambda net: lambda x, y: step(net, x, y),
}


@pytest.fixture(autouse=True)
def libraries(monkeypatch):
    fake = types.ModuleType("foolbox")
    fake.PyTorchModel = lambda network, bounds, device: types.SimpleNamespace(network=network, bounds=bounds)
    monkeypatch.setitem(sys.modules, "foolbox", fake)


@pytest.mark.parametrize("form", FORMS)
def test_every_calling_convention_proposes_the_same(form, net, digits):
    attack = FORMS[form](net)
    held = getattr(attack, "model", None)
    result = evaluate(net, digits.x, digits.y, threat=LINF, attack=attack)
    clean = net(digits.x).argmax(1) == digits.y
    wanted = step(net, digits.x[clean], digits.y[clean])
    broken = net(wanted).argmax(1) != digits.y[clean]
    assert broken.any()
    assert result.broken[clean].tolist() == broken.tolist()
    assert result.flags == []
    assert result.manifest["status"] == "done"
    assert getattr(attack, "model", None) is held
    counted = result.frame[result.frame["stage"] != "clean"]["forwards"]
    assert (counted == (0 if form in ("art", "function of two") else 2 if form == "foolbox" else 1)).all()


def test_points_outside_the_threat_are_errors_and_no_successes(net, digits):
    def far(model, x, y):
        return step(model, x, y, 2 * EPS)

    with pytest.warns(UserWarning, match="samples ended with an error"):
        result = evaluate(net, digits.x, digits.y, threat=LINF, attack=far)
    assert result.manifest["status"] == "failed"
    assert all("outside the threat" in text for text in result.errors)
    assert sum(result.errors.values()) > 16
    assert np.isnan(result.robust)
    assert torch.equal(result.x_adv, digits.x)


def test_another_shape_is_refused_and_a_crash_is_a_record(net, digits):
    with pytest.raises(UserError, match="candidates of shape"):
        evaluate(net, digits.x, digits.y, threat=LINF, attack=lambda model, x, y: x[:1])

    def crash(model, x, y):
        raise RuntimeError("out of luck")

    with pytest.warns(UserWarning, match="out of luck"):
        result = evaluate(net, digits.x, digits.y, threat=LINF, attack=crash, limit=4)
    assert np.isnan(result.robust)


def test_their_random_numbers_are_a_function_of_the_seed(net, digits):
    def noise(model, x, y):
        return (x + EPS * torch.empty_like(x).uniform_(-1, 1).sign() * random.choice([1, -1])).clamp(0, 1)

    before = torch.get_rng_state()
    one, same, other = (
        evaluate(net, digits.x, digits.y, threat=LINF, attack=noise, seed=seed) for seed in (0, 0, 1)
    )  # fmt: skip
    assert one.frame["margin"].tolist() == same.frame["margin"].tolist() != other.frame["margin"].tolist()
    assert torch.equal(torch.get_rng_state(), before)


def test_an_attack_with_other_settings_is_another_run(net, digits):
    hashes = {
        evaluate(
            net, digits.x, digits.y, threat=LINF, attack=functools.partial(adv_lib_like(net).func, eps=eps), limit=4
        ).manifest["config_hash"]
        for eps in (0.1, 0.2, 0.1)
    }
    assert len(hashes) == 2


@pytest.mark.parametrize(("attack", "line"), [(3, "attack is a int"), (lambda x: x, "takes 1 arguments")])
def test_what_is_no_attack_is_refused(attack, line, net, digits):
    with pytest.raises(UserError, match=line):
        evaluate(net, digits.x, digits.y, threat=LINF, attack=attack)


def test_a_batch_size_limits_what_a_foreign_attack_gets(net, digits):
    sizes = []

    def watched(model, x, y):
        sizes.append(len(x))
        return x

    evaluate(net, digits.x, digits.y, threat=LINF, attack=watched, batch_size=8)
    assert max(sizes) <= 8


@pytest.mark.parametrize("name", ["pgd", "apgd", "square", "autoattack"])
def test_our_attacks_are_called_as_theirs(name, net, digits):
    stages = {stage: {"steps": 5} for stage in ("apgd_ce", "apgd_t", "fab_t")} | {"square": {"queries": 20}}
    few = {"stages": stages}
    knobs = {"queries": 20} if name == "square" else few if name == "autoattack" else {"steps": 5}
    x, y = digits.x[:32], digits.y[:32]
    net.train()
    attack = gauntlet.attack(name, net, threat=LINF, **knobs)
    z = attack(x, y)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(z, attack(x, y))
    assert LINF.contains(z, x).all()
    net.eval()
    found = (net(z).argmax(1) != y).tolist()
    assert found == evaluate(net, x, y, threat=LINF, attack=name, **knobs).broken.tolist()


@pytest.mark.parametrize("target", ["random", "runner_up", "nearest"])
def test_a_drop_in_is_targeted_as_a_run_is(target, net, digits):
    x, y = digits.x[:32], digits.y[:32]
    threat = Threat("linf", 0.3, goal="targeted", target=target)
    z = gauntlet.attack("pgd", net, threat=threat, steps=10)(x, y)
    result = evaluate(net, x, y, threat=threat, attack="pgd", steps=10)
    clean = net(x).detach()
    run = Evaluation(Victim(lambda image, rng: net(image), (net,)), ("pgd", PGD()), threat, 10)
    chosen = targets_of(run, clean, x, torch.arange(32), y)
    assert result.manifest["name"]["threat"] == f"linf-0.3-targeted-{target}"
    assert result.broken.tolist() == ((clean.argmax(1) != y) | hits(net(z), chosen)).tolist()
    assert (net(result.x_adv).argmax(1) == chosen).sum() >= 2
    assert "weaker-beats-stronger" not in str(result.flags)  # the reference attack has another goal


def test_a_drop_in_that_cannot_be_is_refused(net, digits):
    with pytest.raises(InputError, match="needs more than the model"):
        gauntlet.attack("uap", net, threat=LINF)
    with pytest.raises(UserError, match=r"did you mean pgd\?"):
        gauntlet.attack("pgdd", net, threat=LINF)
    with pytest.raises(InputError, match="finite eps"):
        gauntlet.attack("pgd", net, norm="linf", eps="unbounded")
    with pytest.raises(InputError, match="divide by 255"):
        gauntlet.attack("pgd", net, threat=LINF, steps=2)(digits.x * 255, digits.y)
    with pytest.raises(InputError, match="model is a defense"):
        gauntlet.attack("pgd", "trades", threat=LINF)

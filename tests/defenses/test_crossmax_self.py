"""The random stack of resolutions, the probes, and the self-ensemble around them."""

import pytest
import torch
from torch import nn

from gauntlet.defenses.crossmax import crossmax
from gauntlet.defenses.crossmax_self import CrossMaxSelf
from gauntlet.errors import UserError
from gauntlet.models.linear_probes import Probed, Probes
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.models.stacked_resnet import StackedResNet
from gauntlet.threat_model.rng import Rng
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.objectives.linear_probing import Probing, StackTuning
from gauntlet.training.objectives.multi_resolution import ResolutionStack, rolled
from gauntlet.training.objectives.self_ensemble import SelfEnsemble

STILL = {"shift": 0, "contrast": (1.0, 1.0), "colour": (1.0, 1.0), "down": 0.0, "up": 0.0}
IDS = torch.arange(6)


def images(channels=3, size=32, seed=0):
    return torch.rand(6, channels, size, size, generator=torch.Generator().manual_seed(seed))


def test_the_shape_and_the_box():
    z = ResolutionStack()(images(), Rng(0, IDS))
    assert z.shape == (6, 12, 32, 32)
    assert 0 <= float(z.min()) < float(z.max()) <= 1


def test_without_chance_the_largest_view_is_the_image():
    z = ResolutionStack(**STILL)(images(), Rng(0, IDS))
    torch.testing.assert_close(z[:, :3], images(), atol=1e-6, rtol=0)
    assert not torch.allclose(z[:, 3:6], images(), atol=0.05)


def test_shifts_go_around_the_edges():
    x, shift = images(), torch.tensor([[0, 0], [1, 0], [0, 2], [-3, 1], [3, -3], [32, -32]])
    expected = [torch.roll(each, tuple(by.tolist()), (1, 2)) for each, by in zip(x, shift, strict=True)]
    assert torch.equal(rolled(x, shift), torch.stack(expected))


def test_colour_grey_and_the_legacy_contrast():
    grey = ResolutionStack(sizes=(32,), **(STILL | {"colour": (0.0, 0.0)}))(images(), Rng(0, IDS))
    torch.testing.assert_close(grey, images().mean(1, keepdim=True).expand(-1, 3, -1, -1))
    knobs = STILL | {"colour": (0.5, 0.5), "contrast": (1.0, 1.0), "sizes": (32,)}
    x = images(1)
    as_drawn, legacy = (ResolutionStack(**knobs, legacy_contrast=slip)(x, Rng(0, IDS)) for slip in (False, True))
    torch.testing.assert_close(as_drawn, x)
    mean = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(legacy, mean + 0.5 * (x - mean))


def test_draws_are_those_of_the_stream():
    stack, x = ResolutionStack(sizes=(8, 4)), images(1, 8)
    whole = stack(x, Rng(0, IDS, "a"))
    assert torch.equal(whole, stack(x, Rng(0, IDS, "a")))
    assert not torch.equal(whole, stack(x, Rng(0, IDS, "b")))
    order = torch.tensor([4, 1])
    assert torch.equal(stack(x[order], Rng(0, IDS[order], "a")), whole[order])
    same = x[:1].expand(6, -1, -1, -1)
    apart, shared = (ResolutionStack(sizes=(8, 4), per_sample=own)(same, Rng(0, IDS)) for own in (True, False))
    assert not torch.equal(apart[0], apart[1])
    assert torch.equal(shared[0], shared[5])


def test_every_view_has_a_gradient():
    x = (0.3 + 0.2 * images()).requires_grad_()
    z = ResolutionStack(down=0.05, up=0.05)(x, Rng(0, IDS))
    for view in z.split(3, 1):
        (gradient,) = torch.autograd.grad(view.square().sum(), x, retain_graph=True)
        assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize(
    "knobs",
    [{"sizes": ()}, {"shift": -1}, {"contrast": (1.5, 0.7)}, {"colour": (0.5, 2.0)}, {"down": -0.1}, {"up": -1.0}],
)
def test_bad_stacks(knobs):
    with pytest.raises(UserError, match=r"stack\."):
        ResolutionStack(**knobs)


def test_a_view_above_the_image_is_refused():
    with pytest.raises(UserError, match="8 pixels"):
        ResolutionStack()(images(1, 8), Rng(0, IDS))


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Probed(SmallCNN(10, 3, 8, width=4), ["stem", "layer1"], 10, [3, 8, 8])


def test_probes_learn_beside_the_backbone_and_leave_it_alone(model):
    logits = model.train()(images(3, 8))
    assert logits.shape == (6, 3, 10)
    logits[:, :2].sum().backward()
    assert all(p.grad is not None for p in model.probes.parameters())
    assert not any(p.grad is not None and p.grad.any() for p in model.tapped.parameters())
    x = images(3, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(model.eval()(x)[:, :2].square().sum(), x)
    assert (gradient != 0).any()  # deployed, an attacker sees through them


def test_the_objective_is_the_sum_over_predictors(model):
    stack, x, y = ResolutionStack(sizes=(8, 6, 4), shift=1), images(1, 8), torch.arange(6)
    objective, model = SelfEnsemble(stack), model.eval()
    logits = model(stack(x, Rng(0, IDS, "/stack")))
    expected = sum(nn.functional.cross_entropy(each, y, reduction="none") for each in logits.unbind(1))
    torch.testing.assert_close(objective.losses(model, x, y, x, Rng(0, IDS)), expected)
    scores = objective.classifier(model)(x)
    assert torch.allclose(objective.classifier(model)(x[:2]), scores[:2], atol=1e-5)


def test_the_deployed_scores_and_heads(model):
    stack, x, rng = ResolutionStack(sizes=(8, 6, 4), shift=1), images(1, 8), Rng(0, IDS, "r")
    victim = CrossMaxSelf(parts={"model": None}, stack=stack, k=2, draws=20).deploy({"model": model.eval()})
    means = ["mean_logits", "mean_rows", "mean_columns", "mean_softmax"]
    assert [head.name for head in victim.heads] == ["true", *means, "probe_0", "probe_1", "backbone"]
    assert victim.randomized
    assert {head.draws for head in victim.heads} == {20}
    logits = model(stack(x, rng.stream("stack")))
    assert torch.equal(victim.predict(x, rng), crossmax(logits.transpose(0, 1), 2))
    assert torch.equal(victim.heads[-1].forward(x, rng), logits[:, -1])


def test_what_is_refused(model):
    with pytest.raises(UserError, match=r"defense\.k=4"):
        CrossMaxSelf(parts={"model": None}, k=4).deploy({"model": model})
    with pytest.raises(UserError, match="Probed"):
        CrossMaxSelf(parts={"model": None}).deploy({"model": nn.Linear(1, 1)})
    with pytest.raises(UserError, match="taps"):
        Probed(SmallCNN(10, 3, 8), [], 10, [3, 8, 8])


def backbone(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SmallCNN(10, 3, 8, width=4)


def probes(network=None):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Probes(network or backbone(), ["stem", "layer1"], 10, [3, 8, 8])


SMALL_STACK = ResolutionStack(sizes=(8, 6, 4), shift=1)


def test_a_backbone_and_probes_are_the_same_defense_as_one_network(model):
    apart = {"backbone": model.eval().tapped.network, "probes": model.probes.eval()}
    knobs = {"stack": SMALL_STACK, "k": 2}
    x, rng = images(1, 8), Rng(0, IDS, "r")
    one = CrossMaxSelf(parts={"model": None}, **knobs).deploy({"model": model})
    two = CrossMaxSelf(parts={"backbone": None, "probes": None}, **knobs).deploy(apart)
    assert torch.equal(one.predict(x, rng), two.predict(x, rng))
    assert [head.name for head in one.heads] == [head.name for head in two.heads]
    assert len(two.modules) == 2


def test_probes_learn_behind_a_backbone_that_stays_as_it_is():
    frozen = backbone().train()
    objective, model = Probing(frozen, SMALL_STACK), probes(frozen).train()
    before = [tensor.clone() for tensor in frozen.state_dict().values()]
    losses = objective.losses(model, images(1, 8), torch.arange(6), images(1, 8), Rng(0, IDS))
    assert losses.shape == (6,)
    losses.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(frozen.state_dict().values(), before, strict=True))
    assert frozen.training  # it had its mode back
    assert objective.classifier(model).eval()(images(1, 8)).shape == (6, 10)
    with pytest.raises(UserError, match="crossmax_self_cifar trains both"):
        Probing(None)
    with pytest.raises(UserError, match="not SmallCNN"):
        objective.losses(backbone(), images(1, 8), torch.arange(6), images(1, 8), Rng(0, IDS))


def test_tuning_learns_from_one_stack_and_may_be_attacked():
    x, y, model = images(1, 8), torch.arange(6), backbone().eval()
    plain = StackTuning(SMALL_STACK)
    assert plain.examples(model, x, y, Rng(0, IDS)) is x
    expected = nn.functional.cross_entropy(model(SMALL_STACK(x, Rng(0, IDS, "/stack"))), y, reduction="none")
    torch.testing.assert_close(plain.losses(model, x, y, x, Rng(0, IDS)), expected)
    light = StackTuning(SMALL_STACK, InnerPGD(eps=8 / 255, steps=1, step_size=1, init="zero"))
    z = light.examples(model, x, y, Rng(0, IDS))
    assert 0 < float((z - x).abs().max()) <= 8 / 255 + 1e-6
    assert torch.equal(z, light.examples(model, x, y, Rng(0, IDS)))
    assert plain.classifier(model)(x).shape == (6, 10)


def test_views_are_normalised_each_for_itself():
    with torch.random.fork_rng():
        model = StackedResNet("resnet18", 10, views=2, size=0, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)).eval()
    x = torch.rand(1, 6, 32, 32)
    expected = torch.cat([(x[:, 3 * v + c] - (0.1, 0.2, 0.3)[c]) / (1, 2, 4)[c] for v in (0, 1) for c in range(3)])
    torch.testing.assert_close(model.normalize(x)[0], expected)
    assert model.model.conv1.weight.shape == (64, 6, 7, 7)
    torch.testing.assert_close(model(x), model.model(model.normalize(x)))


@pytest.mark.parametrize(
    ("knobs", "told"), [({"name": "vgg11"}, "no ResNet"), ({"views": 0}, "views"), ({"size": -1}, "size")]
)
def test_what_no_stacked_resnet_is(knobs, told):
    with pytest.raises(UserError, match=told):
        StackedResNet(**({"name": "resnet18", "classes": 10} | knobs))


def test_too_few_draws_and_other_parts_are_refused():
    for draws in (0, 1, 19):
        with pytest.raises(UserError, match=rf"defense\.draws={draws} must be a whole number from 20"):
            CrossMaxSelf(parts={"model": None}, draws=draws)
    with pytest.raises(UserError, match="backbone and probes, not probes"):
        CrossMaxSelf(parts={"probes": None})
    with pytest.raises(UserError, match=r"needs gauntlet\.models\.linear_probes\.Probes, not SmallCNN"):
        CrossMaxSelf(parts={"backbone": None, "probes": None}).deploy({"backbone": backbone(), "probes": backbone()})

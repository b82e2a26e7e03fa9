"""Mixtures of experts: gathered execution is the dense masked one, and costs one pathway."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gauntlet.errors import UserError
from gauntlet.models.moe import Gate, MoEConv2d
from gauntlet.models.moe_resnet import MoEResNet
from gauntlet.models.moe_small_cnn import MoESmallCNN
from gauntlet.models.moe_wide_resnet import MoEWideResNet
from gauntlet.models.resnet import ResNet
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.models.wide_resnet import WideResNet

MAKERS = {
    "small_cnn": (lambda **knobs: MoESmallCNN(10, 1, 8, **knobs), (1, 8)),
    "resnet18": (lambda **knobs: MoEResNet(10, width=4, **knobs), (3, 8)),
    "wrn_10_1": (lambda **knobs: MoEWideResNet(10, 3, 10, 1, **knobs), (3, 8)),
}


def made(name, experts=3, **knobs):
    """A mixture in float64 and eval mode, with batch statistics of its own and a router that uses all experts."""
    make, (channels, size) = MAKERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make(experts=experts, standardise=experts > 1, **knobs).double()
        x = torch.rand(12, channels, size, size, dtype=torch.float64)
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.momentum = 1.0
        model(x)
    return model.eval(), x


@pytest.fixture(params=MAKERS)
def mixture(request):
    return made(request.param)


def test_gathered_equals_masked(mixture):
    model, x = mixture
    with torch.no_grad():
        scores = model.scores(x)
        assert (torch.bincount(scores.argmax(1), minlength=3) > 0).all()
    masked = model.straight_through(x).detach()
    torch.testing.assert_close(model(x), masked, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        assert torch.equal(model.straight_through(x), model(x))


def test_an_image_does_not_depend_on_its_batch_mates(mixture):
    model, x = mixture
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in x])
        torch.testing.assert_close(model(x), alone, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model(x.flip(0)).flip(0), alone, rtol=1e-10, atol=1e-10)


def test_a_batch_may_be_empty(mixture):
    model, x = mixture
    assert model(x[:0]).shape == (0, 10)


def test_each_image_takes_the_pathway_of_its_route(mixture):
    model, x = mixture
    route = torch.arange(12) % 3
    with torch.no_grad():
        every = torch.stack([model.pathway(x, e) for e in range(3)])
        torch.testing.assert_close(model.along(x, route), every[route, torch.arange(12)], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model(x), every[model.scores(x).argmax(1), torch.arange(12)], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MAKERS)
def test_a_pathway_is_the_narrow_network_cut_from_its_expert(name):
    model, x = made(name)
    for expert in range(3):
        narrow = MAKERS[name][0](experts=1).double().eval()
        cut = {key: value for key, value in model.state_dict().items() if not key.startswith("router.")}
        for path, layer in model.named_modules():
            if isinstance(layer, MoEConv2d):
                cut[f"{path}.weight"] = layer.weight.chunk(3)[expert]
        narrow.load_state_dict(cut)
        with torch.no_grad():
            torch.testing.assert_close(model.pathway(x, expert), narrow(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("mixture", "plain", "channels"),
    [
        (lambda: MoEResNet(10, width=8, experts=1, scale=1.0), lambda: ResNet(10, width=8), 3),
        (lambda: MoEWideResNet(10, 3, 10, 2, experts=1, scale=1.0), lambda: WideResNet(10, 3, 10, 2), 3),
        (lambda: MoESmallCNN(10, 1, 28, experts=1, scale=1.0), lambda: SmallCNN(10, 1, 28), 1),
    ],
)
def test_one_expert_of_full_width_is_the_plain_network(mixture, plain, channels):
    one, other = mixture(), plain()
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    one.load_state_dict({name: value for (name, _), value in pairs})
    x = torch.rand(4, channels, 28, 28)
    for mode in (True, False):
        assert torch.equal(one.train(mode)(x), other.train(mode)(x))
    assert not one.parameter_groups()["router"]


def hand_count(model, size):
    """Multiply-adds of one pathway by the sizes of its layers: h * w * k * k * inside * outside, summed."""
    if isinstance(model, MoEResNet):
        narrow = [int(0.5 * 64 * 2**i) for i in range(4)]
        total, inside, pixels = size**2 * 9 * 3 * 64, 64, size
        for i, outside in enumerate(narrow):
            pixels = size >> i
            total += pixels**2 * (9 * inside * outside + 3 * 9 * outside**2 + inside * outside)
            inside = outside
        return total + inside * 10
    total, inside = size**2 * 9 * 3 * 8, 8
    for i in range(3):
        outside = 80 << i
        total += (size >> i) ** 2 * (9 * inside * outside + 7 * 9 * outside**2 + inside * outside)
        inside = outside
    return total + inside * 10


def router_count(size, channels, experts):
    """Multiply-adds of the router of 20 layers."""
    total = size**2 * 9 * (channels * 16 + 6 * 16**2)
    total += (size // 2) ** 2 * 9 * (16 * 32 + 5 * 32**2) + (size // 4) ** 2 * 9 * (32 * 64 + 5 * 64**2)
    return total + 64 * experts


def multiply_adds(work):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("mixture", "dense", "path", "whole"),
    [
        (MoEResNet, ResNet, 151_718_400, 555_422_720),
        (lambda classes: MoEWideResNet(classes, depth=28), WideResNet, 1_310_944_384, 5_243_328_768),
    ],
)
def test_multiply_adds_are_those_counted_by_hand(mixture, dense, path, whole):
    with torch.device("meta"):
        model, x = mixture(10).eval(), torch.zeros(1, 3, 32, 32)
        if isinstance(model, MoEResNet):
            assert hand_count(model, 32) == path
        assert multiply_adds(lambda: model.pathway(x, 0)) == path
        assert multiply_adds(lambda: model.scores(x)) == router_count(32, 3, 2) == 40_550_528
        assert multiply_adds(lambda: model(x)) == path + 40_550_528
        assert multiply_adds(lambda: dense(10).eval()(x)) == whole


def test_a_wide_pathway_by_hand():
    with torch.device("meta"):
        assert hand_count(MoEWideResNet(10), 32) == 1_310_944_384


@pytest.mark.parametrize(("scale", "share"), [(0.2, 0.126), (0.5, 0.346), (0.8, 0.727)])
def test_the_share_of_the_dense_network(scale, share):
    with torch.device("meta"):
        model, x = MoEResNet(10, scale=scale).eval(), torch.zeros(1, 3, 32, 32)
        assert multiply_adds(lambda: model(x)) / 555_422_720 == pytest.approx(share, abs=5e-4)


def masked_multiply_adds(model, x):
    with FlopCounterMode(display=False) as counter:
        model.straight_through(x)
    return counter.get_total_flops() // 2


def test_a_batch_costs_one_pathway_for_each_image_whatever_the_routes():
    model, x = made("small_cnn", experts=4)
    x = x.float()
    model = model.float()
    each = 31_232 + 5_792 + 2 * 16  # the router has two scores more
    assert len(set(model.scores(x).argmax(1).tolist())) > 1
    assert multiply_adds(lambda: model(x)) == 12 * each
    narrow = sum(9 * w * v * p for w, v, p in ((16, 16, 4), (16, 32, 4)))
    assert masked_multiply_adds(model, x) == 12 * (each + 3 * narrow)


def test_numbers_of_parameters():
    with torch.device("meta"):
        resnet, wide, small = MoEResNet(10), MoEWideResNet(10), MoESmallCNN(10, 1, 8)
    count = [sum(weight.numel() for weight in part.parameters()) for part in (resnet, resnet.router, wide, small)]
    assert count == [5_834_652, 269_202, 18_508_804, 16_692]


def test_the_gradient_through_the_router_is_its_definition(mixture):
    """d loss / d scores[e] is the sum over the layers of the output of expert e times the gradient at that layer."""
    model, x = mixture
    weight = torch.randn(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = model.scores(x).detach()
    mask = nn.functional.one_hot(scores.argmax(1), 3).double().requires_grad_()
    seen = []

    def keep(layer, given, output):
        output.retain_grad()
        seen.append((layer, given[0].detach(), output))

    handles = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, MoEConv2d)]
    logits = model.trunk(model.normalize(x), Gate((), mask))
    (logits * weight).sum().backward()
    expected = torch.zeros(12, 3, dtype=torch.float64)
    for layer, given, output in seen:
        for expert, block in enumerate(layer.weight.detach().chunk(3)):
            alone = nn.functional.conv2d(given, block, None, layer.stride, layer.padding)
            expected[:, expert] += (alone * output.grad).flatten(1).sum(1)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(mask.grad, expected, rtol=1e-9, atol=1e-9)
    leaf = x.clone().requires_grad_()
    (whole,) = torch.autograd.grad((model.straight_through(leaf) * weight).sum(), leaf)
    inner = x.clone().requires_grad_()
    (fixed,) = torch.autograd.grad((model.along(inner, scores.argmax(1)) * weight).sum(), inner)
    outer = x.clone().requires_grad_()
    (through,) = torch.autograd.grad(model.scores(outer), outer, expected)
    torch.testing.assert_close(whole, fixed + through, rtol=1e-8, atol=1e-8)
    assert through.abs().sum() > 0


def test_the_gradient_of_the_forward_pass_is_that_of_the_fixed_route(mixture):
    model, x = mixture
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    (first,) = torch.autograd.grad(model(one).square().sum(), one)
    (second,) = torch.autograd.grad(model.along(other, model.scores(x).argmax(1)).square().sum(), other)
    assert torch.equal(first, second)


def test_an_expert_without_images_gets_no_gradient():
    model, x = made("resnet18")
    nn.functional.cross_entropy(model.along(x, torch.ones(12, dtype=torch.long)), torch.arange(12) % 10).backward()
    for layer in model.modules():
        if isinstance(layer, MoEConv2d):
            first, second, third = layer.weight.grad.chunk(3)
            assert not first.any()
            assert second.any()
            assert not third.any()
    assert all(weight.grad is None for weight in model.parameter_groups()["router"])


def test_the_groups_are_all_parameters_once():
    model, _ = made("wrn_10_1")
    groups = model.parameter_groups()
    assert list(groups) == ["experts", "router"]
    assert {id(w) for w in groups["router"]} == {id(w) for w in model.router.parameters()}
    both = [id(weight) for group in groups.values() for weight in group]
    assert sorted(both) == sorted(id(weight) for weight in model.parameters())


def test_loads_sum_to_the_images(mixture):
    model, x = mixture
    loads = model.loads(x)
    assert loads.shape == (3,)
    assert loads.sum() == 12
    constant, x = made("small_cnn", router="constant")
    assert constant.loads(x).tolist() == [12, 0, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_router_shows_in_the_logits(bad):
    model, x = made("small_cnn")
    model.router.head.bias.data[1] = bad
    assert model(x).isnan().all()
    assert model.straight_through(x).isnan().all()


def test_routes_and_logits_are_finite_for_images_far_outside_the_box():
    model, x = made("resnet18")
    for scale in (0.0, 1e4, -1e4, 1e8):
        logits = model(x * scale)
        assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MoESmallCNN(10, 3, 64), "8, 28 or 32 pixels, not 64"),
        (lambda: MoESmallCNN(10, 1, 8, experts=0), "model.experts=0"),
        (lambda: MoESmallCNN(10, 1, 8, scale=0.0), "model.scale=0.0"),
        (lambda: MoESmallCNN(10, 1, 8, scale=0.01), "model.scale=0.01 leaves none of 32 channels"),
        (lambda: MoESmallCNN(10, 1, 8, router="large"), "model.router=large is unknown"),
        (lambda: MoEResNet(10, depth=50), "model.depth=50"),
        (lambda: MoEResNet(10, activation="tanh"), "model.activation=tanh"),
        (lambda: MoEWideResNet(10, depth=30), "6n + 4"),
    ],
)
def test_sizes_that_do_not_exist_are_refused(make, message):
    with pytest.raises(UserError) as refusal:
        make()
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)

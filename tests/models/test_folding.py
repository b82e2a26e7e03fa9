"""A folded copy computes what the original computes."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gauntlet.models.batchnorm_folding import folded
from gauntlet.models.normalize import Normalize


def norms(module):
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


def agree(model, images):
    """Both in eval mode: logits and input gradients within 1e-4 of their scale."""
    copied = folded(model)
    results = []
    for one in (copy.deepcopy(model).eval(), copied):
        x = images.clone().requires_grad_(True)
        logits = one(x)
        cotangent = torch.linspace(-1, 1, logits.numel()).view_as(logits).sin()
        (gradient,) = torch.autograd.grad(logits, x, cotangent)
        results.append((logits.detach(), gradient))
    for expected, found in zip(*results, strict=True):
        assert (expected - found).abs().max() <= 1e-4 * expected.abs().max()
    return copied


def settle(model, shape=(8, 3, 8, 8)):
    """Batch statistics, gains and shifts that are not the first ones."""
    torch.manual_seed(1)
    for _ in range(3):
        model(torch.rand(shape) * 2)
    for norm in norms(model):
        if norm.affine:
            nn.init.uniform_(norm.weight, -1.5, 1.5)
            nn.init.uniform_(norm.bias, -1, 1)
    return model.eval()


def test_every_architecture(network):
    model, images = network
    copied = agree(settle(model.train(), (8, *images.shape[1:])), images)
    assert len(norms(copied)) < len(norms(model))


def test_plain_networks_lose_every_batch_norm(network):
    model, _ = network
    if type(model).__name__ in ("SmallCNN", "ResNet", "TorchvisionModel"):
        assert not norms(folded(model))


def test_the_original_is_untouched(network):
    model, _ = network
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    copied = folded(model)
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert not copied.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in copied.parameters())
    assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in model.parameters()}


def test_channels_last(network):
    model, _ = network
    weights = [p for p in folded(model).parameters() if p.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_folding_twice_is_folding_once(network):
    model, images = network
    once = folded(model)
    assert torch.equal(once(images), folded(once)(images))


def test_names_and_hooks_of_layers_stay(network):
    model, images = network
    copied = folded(model)
    assert [name for name, _ in model.named_modules()] == [name for name, _ in copied.named_modules()]
    seen = []
    name, layer = list(copied.named_children())[1]
    layer.register_forward_hook(lambda module, given, output: seen.append(output))
    copied(images)
    expected = []
    model.get_submodule(name).register_forward_hook(lambda module, given, output: expected.append(output))
    model(images)
    torch.testing.assert_close(seen[0], expected[0], rtol=1e-3, atol=1e-4)


def test_a_public_network(shared, monkeypatch):
    monkeypatch.syspath_prepend(str(shared / "models"))
    networks = pytest.importorskip("networks")
    model = networks.load("at_resnet2b")
    agree(model, torch.rand(4, 3, 32, 32))


class Sums(nn.Module):
    """Control flow on values, which no graph shows."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() < 0:
            x = -x
        return self.norm(self.conv(x)).flatten(1)


def test_a_network_that_cannot_be_traced_is_copied():
    model = settle(Sums())
    copied = agree(model, torch.rand(2, 3, 8, 8))
    assert len(norms(copied)) == 1
    assert copied.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_network_that_cannot_be_copied_is_returned():
    model = nn.Conv2d(1, 1, 1)
    model.last = model(torch.rand(1, 1, 2, 2))
    assert folded(model) is model


class Shared(nn.Module):
    """One convolution before two batch norms, one batch norm after two convolutions."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm1, self.norm2, self.norm3 = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.one(x)) + self.norm2(self.one(x))
        y = self.norm3(self.two(y)) + self.norm3(self.other(y))
        return y.flatten(1)


class Read(nn.Module):
    """The weights of the convolution are read beside its call, or its output used beside the batch norm."""

    def __init__(self, output):
        super().__init__()
        self.conv, self.norm, self.output = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), output

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        rest = y if self.output else nn.functional.conv2d(x, self.conv.weight)
        return (self.norm(y) + rest).flatten(1)


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor, deterministic: bool = False) -> Tensor:
        out = self.norm(self.conv(x)).flatten(1)
        return out if deterministic else out + torch.randn(1)


def test_only_what_may_be_folded_is():
    images = torch.rand(2, 3, 8, 8)
    for model in (Shared(), Read(True), Read(False)):
        settle(model)
        assert len(norms(agree(model, images))) == len(norms(model))


def test_randomness_stays_random():
    model = settle(Random())
    copied = folded(model)
    images = torch.rand(2, 3, 8, 8)
    assert not norms(copied)
    assert not torch.equal(copied(images), copied(images))
    torch.testing.assert_close(copied(images, True), model(images, True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "left"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), nn.Flatten()), 0),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6, eps=0.1), nn.Flatten()), 0),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5)), 0),
        (nn.Sequential(nn.Flatten(2), nn.Linear(64, 5), nn.BatchNorm1d(3), nn.Flatten()), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()), 1),
        (nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.Flatten()), 1),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), 1),
        (nn.Sequential(Normalize((0.5,), (0.2,)), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), 0),
    ],
)
def test_layers(model, left):
    assert len(norms(agree(settle(model), torch.rand(4, 3, 8, 8)))) == left


def test_volumes_are_left_alone():
    model = nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.Flatten())
    volumes = torch.rand(4, 3, 5, 5, 5)
    torch.testing.assert_close(folded(model)(volumes), model.eval()(volumes))


def test_a_batch_norm_with_two_names():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    model.alias = nn.ModuleList([model[1]])
    model.forward = lambda x: model[2](model.alias[0](model[0](x)))
    plain = nn.Sequential(*list(model)[:3])
    images = torch.rand(2, 3, 8, 8)
    settle(plain)
    torch.testing.assert_close(folded(model)(images), plain(images), rtol=1e-4, atol=1e-5)

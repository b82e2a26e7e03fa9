"""Published checkpoints load: whatever holds the weights, whatever stands before or beside them, under known names."""

import argparse
import pathlib

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from gauntlet.errors import UserError
from gauntlet.models import checkpoint
from gauntlet.models.preact_resnet import PreActResNet
from gauntlet.models.preact_resnet_cifar import CifarPreActResNet
from gauntlet.models.resnet import ResNet
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.models.wide_resnet import WideResNet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def drawn(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SmallCNN(10, 1, 8, width=4)
        model(torch.rand(8, 1, 8, 8))
    return model


def prefixed(state, *prefixes):
    return {prefix + name: value for prefix in prefixes for name, value in state.items()}


def other(state):
    return {name: value + 1 for name, value in state.items()}


LAYOUTS = {
    "bare": lambda s: s,
    "state_dict of Lightning": lambda s: {"state_dict": prefixed(s, "model."), "epoch": 3, "loops": {"fit": {}}},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {0: {"step": 1}}}},
    "model of timm": lambda s: {"model": s, "arch": "small"},
    "net of pytorch-cifar": lambda s: {"net": prefixed(s, "module."), "acc": 95.3, "epoch": 199},
    "model_ema": lambda s: {"model_ema": s, "epoch": 3},
    "state_dict_ema": lambda s: {"state_dict_ema": s},
    "params": lambda s: {"params": s},
    "weights": lambda s: {"weights": s},
    "network": lambda s: {"network": s},
    "numpy scalar": lambda s: {"state_dict": s, "best_acc": np.float64(0.9)},
    "numpy random state": lambda s: {"state_dict": s, "rng": np.random.RandomState(0).get_state()},
    "numpy array": lambda s: {"state_dict": s, "history": np.arange(5.0)},
    "argparse": lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs"))},
    "pathlib": lambda s: {"state_dict": s, "path": pathlib.PurePosixPath("a/b"), "win": pathlib.PureWindowsPath("a")},
    "data parallel": lambda s: prefixed(s, "module."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "MadryLab": lambda s: {"model": prefixed(s, "module.model.", "module.attacker.model."), "epoch": 105},
    "behind a normalization": lambda s: prefixed(s, "1."),
    "backbone": lambda s: prefixed(s, "backbone.") | {"projector.weight": torch.zeros(3, 3)},
    "net beside others": lambda s: prefixed(s, "net.") | {"loss.center": torch.zeros(3)},
    "list": lambda s: [s],
    "list of convex_adversarial": lambda s: {"state_dict": [s], "err": 0.3},
    "EMA that is the same": lambda s: {"model": s, "ema": dict(s)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_published_layout_loads(tmp_path, layout, zipped):
    trained, fresh = drawn(0), drawn(1)
    path = tmp_path / "w.pt"
    torch.save(LAYOUTS[layout](trained.state_dict()), path, _use_new_zipfile_serialization=zipped)
    assert checkpoint.load(fresh, path) == checkpoint.digest(trained)


def test_there_are_as_many_as_were_found():
    assert len(LAYOUTS) == 24


def test_what_was_loaded_and_left_out_is_said(tmp_path):
    state = drawn(0).state_dict()
    content = {"model": prefixed(state, "module.model.", "module.attacker.model."), "epoch": 105, "args": 3}
    torch.save(content, tmp_path / "w.pt")
    (line,) = checkpoint.load_reported(drawn(1), tmp_path / "w.pt").lines
    assert line == (
        f"w.pt: {len(state)} tensors of model, without the prefix module.model.; left out: epoch, args, module"
    )


TWO = {
    "model and model_ema": (lambda a, b: {"model": a, "model_ema": b}, "model_ema"),
    "state_dict and state_dict_ema": (lambda a, b: {"state_dict": a, "state_dict_ema": b}, "state_dict_ema"),
    "ema_model_state_dict": (lambda a, b: {"model": a, "ema_model_state_dict": b}, "ema_model_state_dict"),
    "module of ema": (lambda a, b: {"model": a, "ema": {"module": b, "updates": 3}}, "ema.module"),
    "a list": (lambda a, b: {"state_dict": [a, b]}, "state_dict.1"),
    "prefixes": (lambda a, b: prefixed(a, "net.") | prefixed(b, "ema_net."), "ema_net"),
    "prefixes within a key": (lambda a, b: {"state_dict": prefixed(a, "net.") | prefixed(b, "ema.")}, "state_dict.ema"),
}


@pytest.mark.parametrize("two", TWO)
def test_of_two_sets_the_key_says_which(tmp_path, two):
    make, key = TWO[two]
    trained, path = drawn(0), tmp_path / "w.pt"
    averaged = other(trained.state_dict())
    torch.save(make(trained.state_dict(), averaged), path)
    with pytest.raises(UserError, match="holds 2 sets of weights") as caught:
        checkpoint.load(drawn(1), path)
    assert key.split(".")[-1] in str(caught.value)
    fresh = drawn(1)
    checkpoint.load(fresh, path, key)
    assert torch.equal(fresh.head[1].weight, trained.head[1].weight + 1)


def test_a_key_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    state = drawn(0).state_dict()
    torch.save({"net": state, "ema": other(state)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="no weights under checkpoint_key=emma; it has net, ema"):
        checkpoint.load(drawn(1), tmp_path / "w.pt", "emma")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match="leave the option out"):
        checkpoint.load(drawn(1), tmp_path / "w.pt", "ema")


# Networks of other projects, by what their names and shapes are.


class TheirBlock(nn.Module):
    """pytorch-cifar and torchvision: conv1, bn1, conv2, bn2 and a projection."""

    def __init__(self, inside, outside, stride, project):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.project = project
        if stride != 1 or inside != outside:
            down = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
            setattr(self, project, down)

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + getattr(self, self.project, nn.Identity())(x))


class TheirPreActBlock(nn.Module):
    """pytorch-cifar's shortcut comes from the activated input, that of RobustBench's Wong2020Fast from the input."""

    def __init__(self, inside, outside, stride, activated):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.activated = activated
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False))

    def forward(self, x):
        out = F.relu(self.bn1(x))
        kept = self.shortcut(out if self.activated else x) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + kept


def stages(block, width, *more):
    made, inside = [], width
    for number, outside in enumerate((width, 2 * width, 4 * width, 8 * width)):
        first = block(inside, outside, 1 + bool(number), *more)
        made.append(nn.Sequential(first, block(outside, outside, 1, *more)))
        inside = outside
    return made


class TheirResNet(nn.Module):
    def __init__(self, head, project, width=4):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages(TheirBlock, width, project)
        self.last = head
        setattr(self, head, nn.Linear(8 * width, 10))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return getattr(self, self.last)(out.mean((2, 3)))


class TheirPreActResNet(nn.Module):
    def __init__(self, activated, normed, buffers=False, width=4):
        super().__init__()
        if buffers:
            self.register_buffer("mu", torch.tensor(MEAN).view(1, 3, 1, 1))
            self.register_buffer("sigma", torch.tensor(STD).view(1, 3, 1, 1))
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages(TheirPreActBlock, width, activated)
        if normed:
            self.bn = nn.BatchNorm2d(8 * width)
        self.linear = nn.Linear(8 * width, 10)

    def forward(self, x):
        x = (x - self.mu) / self.sigma if hasattr(self, "mu") else x
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        out = F.relu(self.bn(out)) if hasattr(self, "bn") else out
        return self.linear(out.mean((2, 3)))


class TheirWideBlock(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.convShortcut = None if inside == outside else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x):
        out = F.relu(self.bn1(x))
        kept = self.convShortcut(out) if self.convShortcut else x
        return kept + self.conv2(F.relu(self.bn2(self.conv1(out))))


class Layers(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.layer = nn.Sequential(TheirWideBlock(inside, outside, stride), TheirWideBlock(outside, outside, 1))

    def forward(self, x):
        return self.layer(x)


class TheirWideResNet(nn.Module):
    """TRADES' WideResNet-16-2; `sub_block1` is there in files of RobustBench's Carmon2019Unlabeled, and never runs."""

    def __init__(self, unused=False):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = Layers(16, 32, 1)
        if unused:
            self.sub_block1 = Layers(16, 32, 1)
        self.block2, self.block3 = Layers(32, 64, 2), Layers(64, 128, 2)
        self.bn1, self.fc = nn.BatchNorm2d(128), nn.Linear(128, 10)

    def forward(self, x):
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(out)).mean((2, 3)))


class Constants(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("new_mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("new_std", torch.tensor(STD)[:, None, None])

    def forward(self, x):
        return (x - self.new_mean) / self.new_std


class Attacker(nn.Module):
    def __init__(self, normalizer, model):
        super().__init__()
        self.normalize, self.model = normalizer, model


class Madry(nn.Module):
    """MadryLab's AttackerModel."""

    def __init__(self):
        super().__init__()
        self.normalizer, self.model = Constants(), TheirResNet("linear", "shortcut")
        self.attacker = Attacker(self.normalizer, self.model)

    def forward(self, x):
        return self.model(self.normalizer(x))


PLAIN = {"mean": (0.0,), "std": (1.0,)}
CASES = {
    "pytorch-cifar ResNet": (lambda: TheirResNet("linear", "shortcut"), lambda: ResNet(10, width=4, **PLAIN)),
    "pytorch-cifar ResNet, fc": (lambda: TheirResNet("fc", "shortcut"), lambda: ResNet(10, width=4, **PLAIN)),
    "torchvision": (lambda: TheirResNet("fc", "downsample"), lambda: ResNet(10, width=4, **PLAIN)),
    "pytorch-cifar PreActResNet": (
        lambda: TheirPreActResNet(activated=True, normed=False),
        lambda: CifarPreActResNet(10, width=4, **PLAIN),
    ),
    "Wong2020Fast": (
        lambda: TheirPreActResNet(activated=False, normed=False, buffers=True),
        lambda: CifarPreActResNet(10, width=4, shortcut="input", mean=MEAN, std=STD),
    ),
    "Rice2020Overfitting": (
        lambda: TheirPreActResNet(activated=True, normed=True, buffers=True),
        lambda: PreActResNet(10, width=4, mean=MEAN, std=STD),
    ),
    "TRADES": (lambda: TheirWideResNet(), lambda: WideResNet(10, depth=16, width=2, **PLAIN)),
    "Carmon2019Unlabeled": (lambda: TheirWideResNet(unused=True), lambda: WideResNet(10, depth=16, width=2, **PLAIN)),
    "MadryLab": (Madry, lambda: ResNet(10, width=4, mean=MEAN, std=STD)),
}


def trained_network(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make()
        for _ in range(2):  # statistics of their own
            network(torch.rand(8, 3, 32, 32))
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.uniform_(layer.bias, -0.5, 0.5)
    return network.eval()


@pytest.mark.parametrize("wrap", ["bare", "module", "state_dict"])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_other_project(tmp_path, case, wrap):
    theirs, ours = trained_network(CASES[case][0]), CASES[case][1]()
    state = theirs.state_dict()
    content = {"bare": state, "module": prefixed(state, "module."), "state_dict": {"state_dict": state, "epoch": 1}}
    torch.save(content[wrap], tmp_path / "w.pt")
    lines = checkpoint.load_reported(ours, tmp_path / "w.pt").lines
    assert "renamed from the layout of" in lines[0]
    x = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert (ours.eval()(x) - theirs(x)).abs().max() < 1e-5


def test_another_normalization_in_the_file_is_refused_with_the_way_out(tmp_path):
    torch.save(trained_network(CASES["Rice2020Overfitting"][0]).state_dict(), tmp_path / "w.pt")
    way = r"add model.mean=\[0.4914,0.4822,0.4465\] model.std=\[0.2471,0.2435,0.2616\]"
    with pytest.raises(UserError, match=way):
        checkpoint.load(PreActResNet(10, width=4, mean=(0.5,), std=(0.5,)), tmp_path / "w.pt")


def test_a_layout_without_a_normalization_is_pointed_out(tmp_path):
    torch.save(trained_network(CASES["TRADES"][0]).state_dict(), tmp_path / "w.pt")
    lines = checkpoint.load_reported(WideResNet(10, depth=16, width=2), tmp_path / "w.pt").lines
    assert "model.mean=[0] model.std=[1]" in lines[1]
    assert len(checkpoint.load_reported(WideResNet(10, depth=16, width=2, **PLAIN), tmp_path / "w.pt").lines) == 1


def test_a_network_without_the_last_batch_norm_is_told_which_model_it_is(tmp_path):
    torch.save(trained_network(CASES["pytorch-cifar PreActResNet"][0]).state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="take model=preact_resnet18_cifar"):
        checkpoint.load(PreActResNet(10, width=4, **PLAIN), tmp_path / "w.pt")


def test_what_fits_by_order_alone_is_offered_and_not_taken(tmp_path):
    trained, fresh, path = drawn(0), drawn(1), tmp_path / "w.pt"
    names = [f"block.{n}.weird" for n in range(len(trained.state_dict()))]
    values = [v for k, v in trained.state_dict().items() if "num_batches" not in k]
    torch.save({"net": dict(zip(names, values, strict=False)), "epoch": 3}, path)
    before = checkpoint.digest(fresh)
    with pytest.raises(UserError, match="add checkpoint_key=net:by_order"):
        checkpoint.load(fresh, path)
    assert checkpoint.digest(fresh) == before
    for key in ("by_order", "net:by_order"):
        told = checkpoint.load_reported(fresh, path, key)
        assert "taken in their order" in told.lines[0]
        assert torch.equal(fresh.head[1].weight, trained.head[1].weight)
        assert torch.equal(fresh.stem[1].running_var, trained.stem[1].running_var)


def test_an_order_that_does_not_fit_or_is_not_known_is_refused(tmp_path):
    values = list(drawn(0).state_dict().values())
    torch.save({f"a.{n}": value for n, value in enumerate(reversed(values))}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="by order and shape either"):
        checkpoint.load(drawn(1), tmp_path / "w.pt", "by_order")
    safetensors.torch.save_file({f"a.{n}": value for n, value in enumerate(values)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="keeps no order"):
        checkpoint.load(drawn(1), tmp_path / "w.safetensors", "by_order")

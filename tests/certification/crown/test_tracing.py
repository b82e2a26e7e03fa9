"""The graph computes what the network computes, and what it cannot hold is refused by name."""

import copy
import warnings

import pytest
import torch
from torch import nn

from gauntlet.certification.crown.graph import Relu, Sum
from gauntlet.certification.crown.graph_tracing import trace
from gauntlet.errors import UserError
from tests.certification.crown.conftest import Means, graph_of, images, residual

CONSTANT = torch.tensor([0.7, -1.5]).view(-1, 1, 1)

AFFINE = {
    "x - c": lambda x: x - CONSTANT,
    "c - x": lambda x: CONSTANT - x,
    "1 - x": lambda x: 1 - x,
    "rsub": lambda x: torch.rsub(x, 3),
    "c * x + 2": lambda x: 2 + CONSTANT * x,
    "-x / c": lambda x: -x / CONSTANT,
    "in place": lambda x: x.clone().sub_(0.5).div_(CONSTANT).add_(x),
    "x - x / 2": lambda x: nn.functional.relu(x) + x.flatten(1).reshape(x.shape) * 0.5,
    "average": lambda x: nn.functional.adaptive_avg_pool2d(nn.functional.avg_pool2d(x, 3, 1, 1), (4, 2)),
    "strided": lambda x: nn.functional.conv2d(x, torch.ones(3, 1, 3, 3)[:2], None, 2, 0, 1, 2),
    "dilated": lambda x: nn.functional.conv2d(x, torch.ones(5, 2, 2, 3), torch.arange(5.0), (1, 2), (1, 0), 2),
    "max": lambda x: nn.functional.max_pool2d(nn.functional.max_pool2d(x, 3, stride=1), 2),
    "adaptive max": lambda x: nn.functional.adaptive_max_pool2d(nn.functional.max_pool2d(x, 1, 1), (4, 2)),
    "whole mean": lambda x: x.mean((-1, -2), keepdim=True).expand(-1, -1, 1, 1),
}


class Last(nn.Module):
    """A function, and a linear layer on whatever it gives."""

    def __init__(self, function, inside):
        super().__init__()
        self.function, self.head = function, nn.Linear(inside, 3)

    def forward(self, x):
        return self.head(self.function(x).flatten(1))


def test_the_graph_is_the_network(network):
    module, shape = network
    x = images(3, shape).double()
    torch.testing.assert_close(graph_of(module, shape).forward(x), copy.deepcopy(module).double()(x))


@pytest.mark.parametrize("name", list(AFFINE))
def test_functions_of_torch(name):
    shape, x = (2, 8, 8), images(3, (2, 8, 8))
    module = Last(AFFINE[name], AFFINE[name](x)[0].numel()).requires_grad_(False)
    graph = graph_of(module, shape)
    torch.testing.assert_close(graph.forward(x.double()).float(), module(x))


def test_transposes_are_transposes(network):
    module, shape = network
    for node in (graph := graph_of(module, shape)).nodes:
        if node.inputs and not isinstance(node.op, Relu | Sum):
            x = images(2, graph.nodes[node.inputs[0]].shape).double()
            a = images(2, node.shape, 2).double()
            left, right = (node.op.forward(x) * a).flatten(1).sum(1), (x * node.op.transpose(a)).flatten(1).sum(1)
            torch.testing.assert_close(left, right)


def test_a_shortcut_is_read_once():
    kinds = [type(node.op).__name__ for node in graph_of(residual(), (2, 6, 6)).nodes]
    assert (kinds.count("Sum"), kinds.count("Relu"), kinds.count("Scale")) == (2, 5, 7)


REFUSED = {
    "layer 1 (Mish)": nn.Sequential(nn.Conv2d(2, 2, 3), nn.Mish(), nn.Flatten()),
    "max pooling with padding": nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Flatten()),
    "layer 0 (Softplus)": nn.Sequential(nn.Softplus(), nn.Flatten()),
    "batch norm in training mode": nn.Sequential(nn.BatchNorm2d(2), nn.Flatten()).train(),
    "dropout in training mode": nn.Sequential(nn.Dropout(), nn.Flatten()).train(),
    "5x5 to 2x2": nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
    "padding='same'": nn.Sequential(nn.Conv2d(2, 2, 3, padding="same"), nn.Flatten()),
    "one row of class scores": Means().requires_grad_(False).train(),
}


@pytest.mark.parametrize("said", list(REFUSED))
def test_what_bounds_do_not_support_is_named(said):
    module, shape = REFUSED[said], (2, 5, 5)
    if isinstance(module, Means):
        module = nn.Identity()
    with pytest.raises(UserError) as caught:
        graph_of(module, shape)
    assert said in str(caught.value)
    assert "certifier=smoothing takes any network" in str(caught.value)


FUNCTIONS = {
    "power": lambda x: x**3,
    "div": lambda x: 1 / x,
    "cat": lambda x: torch.cat([x, x], 0)[:2],
    "__bool__": lambda x: x if x.mean((2, 3)).flatten(1)[0, 0] > 0 else -x,
    "sum": lambda x: x.sum(0),
    "tolist": lambda x: x * x.mean((2, 3)).tolist()[0][0],
    "a constant of its own for each image": lambda x: x + torch.rand(2, 1, 1, 1),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_functions_that_are_not_affine_are_refused(name):
    with pytest.raises(UserError, match="bounds do not support"):
        graph_of(Last(FUNCTIONS[name], 32), (2, 4, 4))


def test_what_happens_in_the_network_itself_or_around_it_is_placed():
    module = Last(lambda x: x**3, 32)
    with pytest.raises(UserError, match=r"in layer \(Last\)"):
        graph_of(module, (2, 4, 4))
    with pytest.raises(UserError, match="around its networks"):
        trace(lambda x: module.head(x.flatten(1)) ** 3, (module,), (2, 4, 4))


def test_no_hook_stays():
    module = residual()
    graph_of(module, (2, 6, 6))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


class Aliased(nn.Module):
    """Reads a tensor by one name after it was written by another."""

    def __init__(self, read):
        super().__init__()
        self.conv, self.head, self.read = nn.Conv2d(2, 2, 1), nn.Linear(32, 3), read

    def forward(self, x):
        return self.head(self.read(self.conv(x)).flatten(1))


@torch.library.custom_op("gauntlet_tests::halve", mutates_args={"x"})
def halve(x: torch.Tensor) -> None:
    x.mul_(0.5)


def written(write, view):
    """The view, taken before the write."""

    def read(x):
        seen = view(x)
        write(x)
        return seen

    return read


def base(write, view):
    """What the view was taken of, after the view was written."""

    def read(x):
        write(view(x))
        return x

    return read


WRITES = {
    "relu_": torch.relu_,
    "functional.relu": lambda x: nn.functional.relu(x, inplace=True),
    "clamp": lambda x: nn.functional.relu_(x),
    "add_": lambda x: x.add_(1),
    "+=": lambda x: x.__iadd__(1),
    "mul_": lambda x: x.mul_(0.5),
    "+= itself": lambda x: x.__iadd__(x),
    "no effect here": lambda x: x.mul_(1),
}
VIEWS = {
    "view": lambda x: x.view(len(x), -1),
    "flatten": lambda x: x.flatten(1),
    "reshape": lambda x: x.reshape(len(x), -1),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "detach": lambda x: x.detach(),
    "expand": lambda x: x.expand(-1, -1, -1, -1),
    "view of a view": lambda x: x.view(len(x), -1).view(x.shape),
}


@pytest.mark.parametrize("order", [written, base])
@pytest.mark.parametrize("view", list(VIEWS))
@pytest.mark.parametrize("write", list(WRITES))
def test_what_was_written_by_another_name_is_refused(write, view, order):
    module = Aliased(order(WRITES[write], VIEWS[view])).requires_grad_(False)
    with pytest.raises(UserError, match="written in place through a view or another name"):
        graph_of(module, (2, 4, 4))


def test_scores_that_were_written_by_another_name_are_refused():
    class Late(nn.Linear):
        def forward(self, x):
            scores = super().forward(x.flatten(1))
            torch.relu_(scores.view(-1, 3))
            return scores

    with pytest.raises(UserError, match="scores that were written in place"):
        graph_of(Late(32, 3).requires_grad_(False), (2, 4, 4))


@pytest.mark.parametrize("write", list(WRITES))
def test_what_is_written_and_read_by_one_name_is_followed(write):
    module = Aliased(lambda x: WRITES[write](x.view(len(x), -1))).requires_grad_(False)
    x = images(3, (2, 4, 4))
    torch.testing.assert_close(graph_of(module, (2, 4, 4)).forward(x.double()).float(), module(x))


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    SCRIPT = torch.jit.trace(torch.sin, torch.rand(2, 2, 4, 4))

BEHIND = {
    "operator": lambda x: torch.ops.aten.mul.Tensor(x, torch.tensor(2.0)),
    "operator in place": lambda x: (torch.ops.aten.relu_.default(x), x)[1],
    "script": lambda x: SCRIPT(x),
    "custom operator": lambda x: (torch.ops.gauntlet_tests.halve(x), x)[1],
    "hidden constant": lambda x: x + torch.ops.aten.mean.default(x),
    "data": lambda x: (x.data.mul_(0.5), x)[1],
    "a write of part": lambda x: (x[:, 0].zero_(), x)[1],
    "set item": lambda x: (x.__setitem__((slice(None), 0), 0.0), x)[1],
    "into a buffer": lambda x: torch.zeros_like(x).copy_(x),
    "a buffer's view": lambda x: (x, torch.zeros_like(x).view(-1).copy_(x.reshape(-1)))[0],
    "out=": lambda x: torch.add(x, 1, out=x),
    "out= another": lambda x: torch.add(x, 1, out=torch.empty_like(x)),
    "numpy": lambda x: torch.from_numpy(x.detach().numpy() * 2),
}


@pytest.mark.parametrize("name", list(BEHIND))
def test_what_goes_past_the_functions_that_are_noted_is_refused(name):
    with pytest.raises(UserError, match="bounds do not support"):
        graph_of(Aliased(BEHIND[name]).requires_grad_(False), (2, 4, 4))

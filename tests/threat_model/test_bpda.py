"""Stand-ins: the forward stays exact, and the gradient is that of what stands in."""

import pytest
import torch
from torch import nn

from gauntlet.attacks.pgd import PGD
from gauntlet.data.dataset import Batch
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.bpda import StandIn, identity, with_stand_ins
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, Victim, plain


class Levels(nn.Module):
    """Rounds to a few levels: its gradient is zero."""

    def forward(self, x):
        return (x * 8).round() / 8 + 0 * x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        rng = Rng(7, torch.arange(1), "weights")
        self.levels = Levels()
        self.first = nn.Parameter(rng.normal((16, 24))[0] / 4, requires_grad=False)
        self.body = nn.Sequential(nn.ReLU(), Levels())
        self.second = nn.Parameter(rng.stream("2").normal((24, 5))[0] / 2, requires_grad=False)

    def forward(self, x):
        return self.body((self.levels(x) - 0.5).flatten(1) @ self.first) @ self.second


NET = Net().eval()
IDS = torch.arange(40)
X = Rng(0, IDS, "x").uniform((1, 4, 4))
BATCH = Batch(IDS, X, NET(X).argmax(1))
SOFT = {"levels": identity, "body.1": identity}


def stages(*heads):
    victim = Victim(plain(NET), (NET,), heads)
    run = Evaluation(victim, ("pgd", PGD(steps=10, loss="margin", random_start=False)), Threat("linf", 0.2), 5)
    rows = evaluate_chunk(run, BATCH).rows.to_pandas()
    return {stage: part.set_index("sample") for stage, part in rows.groupby("stage")}


def test_where_autograd_finds_nothing_a_stand_in_breaks_the_deployed_forward():
    head = Head("straight_through", plain(with_stand_ins(NET, SOFT)))
    found = stages(head)
    true, soft = found["pgd/true"], found["pgd/straight_through"]
    assert (true["zero_gradients"] > 0).all()
    assert not true["broken"].any()
    assert soft["broken"].mean() > 0.8
    assert (soft["zero_gradients"] == 0).mean() > 0.9


def test_an_exact_stand_in_may_be_the_verdict_and_saves_asking():
    exact = Head("exact", plain(with_stand_ins(NET, SOFT)), exact=True)
    inexact = Head("exact", plain(with_stand_ins(NET, SOFT)))
    one, other = stages(exact)["pgd/exact"], stages(inexact)["pgd/exact"]
    assert one["broken"].equals(other["broken"])
    assert one["forwards"].sum() < other["forwards"].sum()


def test_the_heads_of_a_masked_defense_are_united_per_sample():
    half = with_stand_ins(NET, SOFT)

    def some(parity):  # a head whose gradient is there for every second sample only
        return lambda x, rng: half(x) * (rng.ids % 2 == parity).float()[:, None]

    found = stages(Head("even", some(0)), Head("odd", some(1)))
    true, even, odd = (found[f"pgd/{name}"] for name in ("true", "even", "odd"))
    assert not true["broken"].any()
    beaten = [set(part[part["broken"]].index) for part in (even, odd)]
    assert beaten[0] <= set(range(0, 40, 2))
    assert beaten[1] <= set(range(1, 40, 2))
    assert set(odd.index) == set(range(40)) - beaten[0]  # the next head sees what still stands
    whole = stages(Head("both", plain(half)))["pgd/both"]
    assert beaten[0] | beaten[1] == set(whole[whole["broken"]].index)


def test_the_forward_is_exact_the_weights_are_shared_and_the_network_is_left_alone():
    network = with_stand_ins(NET, SOFT)
    assert torch.equal(network(X), NET(X))
    leaf = X.clone().requires_grad_()
    assert torch.equal(network(leaf), NET(X))
    assert network.first is NET.first
    assert type(NET.levels) is Levels
    assert isinstance(network.levels, StandIn)


def test_the_gradient_is_that_of_the_stand_in():
    module = StandIn(torch.round, lambda x: x - torch.sin(2 * torch.pi * x) / (2 * torch.pi))
    leaf = torch.tensor([0.3, 1.7], requires_grad=True)
    value = module(leaf)
    assert value.tolist() == [0, 2]
    value.sum().backward()
    assert leaf.grad == pytest.approx((1 - torch.cos(2 * torch.pi * leaf)).detach())


def test_misnamed_and_misshapen_stand_ins_are_refused():
    with pytest.raises(ValueError, match="no module 'level'; there are levels, body"):
        with_stand_ins(NET, {"level": identity})
    with pytest.raises(ValueError, match=r"gives \[2\], the module \[3\]"):
        StandIn(lambda x: x, lambda x: x[:2])(torch.zeros(3, requires_grad=True))

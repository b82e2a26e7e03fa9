"""The heads of a mixture of experts are what they say, and the deployed network judges what they find."""

import pytest
import torch
from torch import nn

from gauntlet.attacks.pgd import PGD
from gauntlet.data.dataset import Batch
from gauntlet.defenses.advmoe import AdvMoE, soft
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.models.moe_small_cnn import MoESmallCNN
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@pytest.fixture
def model():
    """A mixture in eval mode and float64 that uses all of its three experts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MoESmallCNN(10, 1, 8, width=8, experts=3, standardise=True).double()
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.momentum = 1.0
        model(torch.rand(64, 1, 8, 8, dtype=torch.float64))
    return model.eval().requires_grad_(False)


@pytest.fixture
def victim(model):
    return AdvMoE(parts={"model": None}).deploy({"model": model})


@pytest.fixture
def x():
    return torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradient(head, x):
    leaf = x.clone().requires_grad_()
    weight = torch.linspace(-1, 1, 10, dtype=x.dtype)
    return torch.autograd.grad((head.forward(leaf, Rng(0, torch.arange(len(x)))) * weight).sum(), leaf)[0]


def test_the_heads_are_declared(victim):
    names = ["true", "straight_through", "soft", "pathway_0", "pathway_1", "pathway_2"]
    assert [head.name for head in victim.heads] == names
    assert [head.exact for head in victim.heads] == [True] + [False] * 5


def test_the_pathway_of_the_clean_route_is_the_attack_with_the_route_fixed(victim, model, x):
    route = model.scores(x).argmax(1)
    assert len(set(route.tolist())) == 3
    heads = {head.name: head for head in victim.heads}
    each = torch.stack([gradient(heads[f"pathway_{e}"], x) for e in range(3)])
    torch.testing.assert_close(gradient(heads["true"], x), each[route, torch.arange(24)])
    z = (x + 0.3).clamp(0, 1)  # somewhere else the true head follows the route of the moment, the pathway does not
    moved = model.scores(z).argmax(1) != route
    assert moved.any()
    fixed = torch.stack([heads[f"pathway_{e}"].forward(z, None) for e in range(3)])[route, torch.arange(24)]
    torch.testing.assert_close(fixed, model.along(z, route))
    assert not torch.isclose(model(z), fixed).all(1)[moved].any()


def test_the_straight_through_head_has_another_gradient(victim, x):
    heads = {head.name: head for head in victim.heads}
    torch.testing.assert_close(heads["straight_through"].forward(x, None), heads["true"].forward(x, None))
    assert not torch.isclose(gradient(heads["straight_through"], x), gradient(heads["true"], x)).all()


@pytest.mark.parametrize("sureness", [1.0, 1e6])
def test_the_soft_head_is_the_mixture_of_the_pathways(sureness, model, x):
    model.router.norm = nn.Sequential(model.router.norm, _Times(sureness))
    scores = model.scores(x)
    best = scores.topk(2, 1).values
    weights = (scores / (best[:, 0] - best[:, 1]).clamp_min(1)[:, None]).softmax(1)
    expected = sum(weights[:, e, None] * model.pathway(x, e).softmax(1) for e in range(3))
    torch.testing.assert_close(soft(model, x, None).exp(), expected)
    leaf = x.clone().requires_grad_()
    (through,) = torch.autograd.grad(soft(model, leaf, None)[:, 0].sum(), leaf)
    assert through.isfinite().all()
    assert (through.flatten(1).abs().amax(1) > 0).all()


class _Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_finds_are_judged_by_the_deployed_network(victim, model, x):
    y = model(x).argmax(1)
    run = Evaluation(victim, ("pgd", PGD(steps=5)), Threat("linf", 0.2), 10, coverage="correct")
    chunk = evaluate_chunk(run, Batch(torch.arange(24), x, y))
    rows = chunk.rows.to_pandas()
    assert set(rows["stage"]) == {"clean", *(f"pgd/{head.name}" for head in victim.heads)}
    found = chunk.adversarial
    assert len(found["z"])
    wrong = model(torch.from_numpy(found["z"]).double()).argmax(1) != y[torch.from_numpy(found["sample"])]
    assert wrong.all()


def test_one_expert_needs_no_router():
    model = MoESmallCNN(10, 1, 8, width=4, experts=1).eval()
    victim = AdvMoE(parts={"model": None}).deploy({"model": model})
    x = torch.rand(4, 1, 8, 8)
    for head in victim.heads:
        torch.testing.assert_close(head.forward(x, None).log_softmax(1), model(x).log_softmax(1))


def test_another_network_is_refused_in_words():
    with pytest.raises(UserError, match="needs a mixture of experts, not SmallCNN") as refusal:
        AdvMoE(parts={"model": None}).deploy({"model": SmallCNN(10, 1, 8)})
    assert "\n" not in str(refusal.value)

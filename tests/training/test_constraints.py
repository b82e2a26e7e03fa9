"""Constraints of the weights: low-rank factors in shape, filters that are zero, radii by importance."""

import io

import pytest
import torch
from torch import nn

from gauntlet.errors import UserError
from gauntlet.models.low_rank import LowRank, factored, low_rank
from gauntlet.training.conditioned_factors import ConditionedFactors, _orthonormal, _to_tangent_space, condition
from gauntlet.training.filter_pruning import FilterPruning, prunable, sparsity, zero_filters
from gauntlet.training.importance_perturbation import ImportancePerturbation
from gauntlet.training.sample_weighting import Progress
from gauntlet.training.trainer import TrainingRun
from gauntlet.training.weight_averaging import SWA

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _same_draws():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("rank", [2, 5])
def test_the_step_of_the_factors_is_the_projection_of_the_dense_gradient(rank):
    """U U^T G + G V V^T - U U^T G V V^T, to first order; at full rank G itself."""
    layer = LowRank(nn.Linear(7, 5).double(), rank).double()
    ConditionedFactors(tau=1.0)._retract(layer)
    g = torch.randn(5, 7, dtype=torch.float64)
    (layer.matrix() * g).sum().backward()
    _to_tangent_space(layer)
    u, s, v = layer.left.weight, layer.core.weight, layer.right.weight
    moved = u.grad @ s @ v + u @ s.grad @ v + u @ s @ v.grad
    p, q = u @ u.T, v.T @ v
    assert torch.allclose(moved, p @ g + g @ q - p @ g @ q, atol=1e-4)  # the ridge of the solution is 1e-6
    assert rank < 5 or torch.allclose(moved, g, atol=1e-4)


def test_factors_of_full_rank_are_the_same_network_and_others_count_r_n_m_r(make_net, batch):
    net = make_net(steps=2).eval()
    before = net(batch.x)
    sizes = {name: (len(w), w[0].numel()) for name, w in net.named_parameters() if w.dim() > 1}
    same = low_rank(make_net(steps=2), compression=0.0).eval()
    assert torch.allclose(same(batch.x), before, atol=1e-4)
    half = low_rank(make_net(steps=2), compression=0.5)
    ranks = {"body.0": 4, "body.3": 8, "body.6": 8, "head": 10}  # the last linear layer keeps its rank
    assert {name: len(layer.core.weight) for name, layer in factored(half)} == ranks
    for name, layer in factored(half):
        n, m, r = *sizes[f"{name}.weight"], ranks[name]
        assert sum(w.numel() for w in layer.parameters() if w.dim() > 1) == r * (n + m + r)


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_factors_stay_orthonormal_and_conditioned(tau, few, make_net, make_recipe):
    recipe = make_recipe(constraint=ConditionedFactors(tau=tau), epochs=1)
    run = TrainingRun(low_rank(make_net(), rank=5), few, recipe, 0, CPU)
    for _ in run.steps():
        for name, layer in factored(run.model):
            for matrix in (layer.left.weight.flatten(1), layer.right.weight.flatten(1).T):
                assert torch.allclose(matrix.T @ matrix, torch.eye(matrix.shape[1]), atol=1e-5)
            assert condition(layer) <= 1 + tau + 1e-4
            assert name == "head" or torch.linalg.matrix_rank(layer.matrix(), rtol=1e-4) <= 5
    assert run.history.epochs[-1].columns["condition/largest"] == pytest.approx(1 + tau, abs=1e-3)


def test_filters_go_by_their_norm_and_stay_gone(few, make_net, make_recipe):
    recipe = make_recipe(constraint=FilterPruning(0.5, start=0.2, end=0.6), epochs=4, weight_decay=0.0)
    run = TrainingRun(make_net(), few, recipe, 0, CPU)
    last = [zero_filters(layer) for layer in prunable(run.model)]
    assert [len(gone) for gone in last] == [8, 16, 16]  # not the head
    for _ in run.steps():
        now = [zero_filters(layer) for layer in prunable(run.model)]
        assert all(bool((new | ~old).all()) for new, old in zip(now, last, strict=True))
        share = recipe.constraint.share((run.step - 1) / run.total) if run.batch else None
        assert share is None or [int(gone.sum()) for gone in now] == [int(share * len(gone)) for gone in now]
        last = now
    assert [int(gone.sum()) for gone in last] == [4, 8, 8]
    assert run.history.epochs[0].columns["sparsity"] < run.history.epochs[1].columns["sparsity"]
    kernels = 72 + 1152 + 2304  # half of which are zero; the head has 640 weights
    assert sparsity(run.model) == run.history.epochs[-1].columns["sparsity"] == kernels / 2 / (kernels + 640)
    assert run._best[0] >= 3  # the weights before are not in the set
    smallest = nn.Linear(2, 4)
    smallest.weight.data = torch.tensor([[3.0, 0], [0, 1], [2, 2], [0.5, 0]])
    with FilterPruning(0.5, 0.0, 0.5).around(nn.Sequential(smallest, nn.Linear(4, 2)), Progress(0.5, 0.5)):
        pass
    assert zero_filters(smallest).tolist() == [False, True, False, True]
    assert smallest.bias[[1, 3]].tolist() == [0, 0]


def test_radii_fall_with_the_norm_and_zeros_stay_zeros():
    kernel = torch.zeros(4, 1, 2, 2)
    kernel[:3, 0, 0, 0] = torch.tensor([1.0, 3.0, 2.0])
    asp = ImportancePerturbation(radius=2.0, smallest=0.5, uniform=0.7, until=0.6)
    assert asp.by_importance([kernel], 0.5)[0].flatten().tolist() == pytest.approx([2.0, 0.5, 1.25, 0.0])
    assert asp.by_importance([kernel], 0.6)[0].flatten().tolist() == pytest.approx([0.7, 0.7, 0.7, 0.0])
    assert asp.by_importance([torch.ones(3, 5)], 0.0)[0].flatten().tolist() == [2.0, 2.0, 2.0]
    weight, g = nn.Parameter(kernel.clone()), torch.randn(4, 1, 2, 2)
    with asp.moved([weight], lambda ws: [g], 0.0):
        moves = weight.detach() - kernel
    assert torch.equal(weight, kernel)
    size = kernel.abs() + 0.01
    for move, t, slope, radius in zip(moves, size, g, [2.0, 0.5, 1.25, 0.0], strict=True):
        assert torch.allclose(move, radius * t**2 * slope / (t * slope).norm(), atol=1e-6)


@pytest.mark.parametrize("constraint", [ConditionedFactors(), FilterPruning(0.5, 0.1, 0.7)])
def test_a_training_goes_on_from_its_state_to_the_same_bits(constraint, few, make_net, make_recipe):
    def fresh():
        net = low_rank(make_net(0.2)) if isinstance(constraint, ConditionedFactors) else make_net(0.2)
        recipe = make_recipe(constraint=constraint, weight_perturbation=ImportancePerturbation(radius=0.5))
        return TrainingRun(net, few, recipe, 0, CPU)

    whole, broken, resumed = fresh(), fresh(), fresh()
    list(whole.steps())
    steps = broken.steps()
    for _ in range(3):
        next(steps)
    buffer = io.BytesIO()
    torch.save(broken.state(), buffer)
    resumed.restore(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    list(resumed.steps())
    for one, two in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_what_does_not_fit_is_refused_in_one_line(few, make_net, make_recipe):
    def begun(constraint, net):
        TrainingRun(net, few, make_recipe(constraint=constraint), 0, CPU)

    for make, words in (
        (lambda: low_rank(make_net(), rank=20), "rank=20 does not fit body.0, whose rank is 8 at most"),
        (lambda: low_rank(make_net(), rank=0), "rank=0 does not fit"),
        (lambda: low_rank(make_net(), compression=1.0), "compression=1.0 must be a share"),
        (lambda: low_rank(low_rank(make_net())), "or factors already"),
        (lambda: low_rank(nn.ReLU()), "here are none"),
        (lambda: begun(ConditionedFactors(), make_net()), "use model=low_rank"),
        (lambda: begun(FilterPruning(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), "here are none"),
        (lambda: FilterPruning(sparsity=1.0), "recipe.constraint.sparsity=1.0 must be a number from 0 and below 1"),
        (lambda: FilterPruning(sparsity=-0.1), "recipe.constraint.sparsity"),
        (lambda: FilterPruning(start=0.6, end=0.5), "must be below recipe.constraint.end"),
        (lambda: ConditionedFactors(tau=-1.0), "recipe.constraint.tau"),
        (lambda: make_recipe(constraint=FilterPruning(), ema=0.9), "does not hold for an average"),
        (lambda: make_recipe(constraint=FilterPruning(), swa=SWA()), "does not hold for an average"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            make()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [1e-3, 3.0])
def test_near_and_far_rows_have_the_q_of_the_decomposition(size):
    """By the Gram matrix for rows that are nearly orthonormal, and by QR for the others."""
    q, _ = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64))
    matrix = q + size * torch.randn(9, 4, dtype=torch.float64)
    expected, r = torch.linalg.qr(matrix)
    assert torch.allclose(_orthonormal(matrix.T).T, expected * r.diagonal().sign(), atol=1e-9)
    broken = torch.full((2, 3), float("nan"))
    assert _orthonormal(broken) is broken

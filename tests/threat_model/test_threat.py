import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from gauntlet.errors import UserError
from gauntlet.threat_model.eps import parse_eps
from gauntlet.threat_model.l1_projection import LOOKS
from gauntlet.threat_model.passes import Guess
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import ROUNDS, Threat

NORMS = [("linf", 0.1), ("l2", 0.7), ("l1", 1.5), ("l0", 3.0)]


def images(seed, count=4):
    x = Rng(seed, torch.arange(count), "x").uniform((2, 4, 4), -0.3, 1.3)
    return x.clamp(0, 1)  # many pixels at the walls


@pytest.mark.parametrize(("norm", "eps"), NORMS)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1e-6, 0.05, 1.0, 1e4]))
def test_projection_is_inside_idempotent_and_leaves_members_alone(norm, eps, seed, size):
    threat, x = Threat(norm, eps), images(seed)
    z = threat.project(x + size * Rng(seed, torch.arange(4), "z").normal((2, 4, 4)), x)
    assert threat.contains(z, x).all()
    assert torch.allclose(threat.project(z, x), z, atol=1e-6)
    assert torch.equal(threat.project(x, x), x)


@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_random_points_are_members_and_differ(norm, eps):
    threat, x = Threat(norm, eps), images(0)
    rng = Rng(0, torch.arange(4))
    z = threat.random(x, rng)
    assert threat.contains(z, x).all()
    assert (threat.distance(z, x) > 0).all()
    assert not torch.equal(z, threat.random(x, rng.stream("other")))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("eps", [0.2, 1.0])
def test_l1_projection_is_the_nearest_point(seed, eps):
    x = Rng(seed, torch.arange(1), "x").uniform((1, 1, 5), -0.2, 1.2, dtype=torch.float64).clamp(0, 1)
    z = x + Rng(seed, torch.arange(1), "z").normal((1, 1, 5), dtype=torch.float64)
    ours = Threat("l1", eps).project(z, x).flatten()
    start, goal = x.flatten().numpy(), z.flatten().numpy()
    # u = x + p - m with p, m >= 0 turns the l1 ball into linear constraints
    found = minimize(
        lambda v: ((start + v[:5] - v[5:] - goal) ** 2).sum(),
        x0=[1e-3] * 10,
        bounds=[(0, 1 - s) for s in start] + [(0, s) for s in start],
        constraints={"type": "ineq", "fun": lambda v: eps - v.sum()},
        tol=1e-12,
    )
    best = start + found.x[:5] - found.x[5:]
    assert ours.numpy() == pytest.approx(best, abs=2e-5)


def test_steepest_promises_the_dual_norm():
    g = Rng(0, torch.arange(3), "g").normal((2, 4, 4))
    flat = g.flatten(1)
    gain = {
        norm: (Threat(norm, 1.0).steepest(g, sparsity=1 / 32) * g).flatten(1).sum(1) for norm in ("linf", "l2", "l1")
    }
    assert torch.allclose(gain["linf"], flat.abs().sum(1))
    assert torch.allclose(gain["l2"], flat.norm(dim=1))
    assert torch.allclose(gain["l1"], flat.abs().amax(1))


@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1e20, 1e36])
def test_l2_direction_survives_tiny_and_huge_gradients(scale):
    g = Rng(0, torch.arange(3), "g").normal((2, 4, 4))
    assert torch.allclose(Threat("l2", 1.0).steepest(g * scale), Threat("l2", 1.0).steepest(g), atol=1e-5)


def test_factors_scale_eps_per_sample():
    x = torch.full((3, 1, 2, 2), 0.5)
    threat = Threat("linf", 0.2).scaled(torch.tensor([0.0, 0.5, 1.0]))
    moved = threat.distance(threat.project(x + 1, x), x)
    assert moved.tolist() == pytest.approx([0, 0.1, 0.2], abs=1e-6)
    assert threat.contains(x + 0.1001, x).tolist() == [False, False, True]
    assert threat.select(torch.tensor([2])).contains(x[2:] + 0.2, x[2:]).item()


def test_contains_refuses_nan_box_and_ball_violations():
    threat, x = Threat("linf", 0.1), torch.full((4, 1, 2, 2), 0.95)
    z = torch.stack([x[0], x[0] * torch.nan, x[0] + 0.06, x[0] - 0.11])
    assert threat.contains(z, x).tolist() == [True, False, False, False]


def test_eps_is_kept_exactly():
    assert parse_eps("8/255") == Fraction(8, 255)
    assert Threat("linf", "8/255").label == "linf-8_255"
    assert Threat("linf", 0.15).label == "linf-0.15"
    assert Threat("linf", "0.15").radius == 0.15


@pytest.mark.parametrize("eps", [-0.1, 0, "0/255", "abc", "8/0", float("nan"), float("inf"), "nan", "-8/255"])
def test_a_bad_eps_is_refused_in_one_line(eps):
    with pytest.raises(UserError, match=r"threat\.eps=.*8/255") as caught:
        Threat("linf", eps)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("norm", Threat.NORMS)
def test_without_a_bound_the_box_alone_limits(norm):
    threat, x = Threat(norm, "unbounded").scaled(torch.zeros(3)), torch.full((3, 2, 4, 4), 0.5)
    far = Rng(0, torch.arange(3), "far").normal((2, 4, 4))
    assert (threat.unbounded, threat.radius, threat.label) == (True, math.inf, f"{norm}-unbounded")
    assert torch.equal(threat.project(far, x), far.clamp(0, 1))
    assert threat.contains(far.clamp(0, 1), x).all()
    assert not threat.contains(far, x).any()
    assert not threat.contains(far.clamp(0, 1) * math.nan, x).any()
    assert threat.budget(x).isinf().all()
    for start in (threat.random, threat.edge):
        assert threat.contains(start(x, Rng(0, torch.arange(3), "start")), x).all()


@pytest.mark.parametrize("norm", Threat.NORMS)
def test_a_budget_for_each_sample(norm):
    x = torch.full((3, 2, 4, 4), 0.5)
    eps = torch.tensor([0.0, 0.1, 0.4]) * (10 if norm == "l0" else 1)
    near = Threat(norm, "unbounded").within(eps)
    moved = near.distance(near.project(x + torch.linspace(0.1, 0.5, 32).reshape(2, 4, 4), x), x)
    assert moved.tolist() == pytest.approx(eps.tolist(), abs=1e-5)
    assert near.select(torch.tensor([2])).budget(x).item() == pytest.approx(float(eps[2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_l1_projects_far_points_onto_a_small_ball_in_few_steps(dtype, monkeypatch):
    sums = []
    summed = torch.Tensor.sum
    monkeypatch.setattr(torch.Tensor, "sum", lambda self, *a, **k: sums.append(0) or summed(self, *a, **k))
    x = torch.full((8, 1, 8, 8), 0.5, dtype=dtype)
    z = x + 30 * Rng(0, torch.arange(8), "far").normal((1, 8, 8), dtype=dtype)
    moved = Threat("l1", 0.01).project(z, x)
    assert len(sums) < 150 + 2 * (ROUNDS + LOOKS)  # rounds before the first look, and between two
    monkeypatch.undo()
    assert Threat("l1", 0.01).distance(moved, x).tolist() == pytest.approx([0.01] * 8, rel=0.02)


def test_an_unknown_norm_is_refused():
    with pytest.raises(UserError, match="linf, l2, l1, l0"):
        Threat("l3", 0.1)


@pytest.mark.parametrize(("norm", "eps"), [("l1", 12.0), ("l1", 1.0), ("l1", 60.0), ("l2", 0.001), ("l2", "36/255")])
@pytest.mark.parametrize("size", [32, 224])
def test_rounding_of_many_pixels_leaves_no_point_outside(norm, eps, size):
    threat, ids = Threat(norm, eps), torch.arange(2)
    rng = Rng(0, ids, "many")
    x = rng.uniform((3, size, size))
    for spread in (1e-3, 1e-2, 0.1, 1.0):
        far = x + spread * rng.stream(spread).normal((3, size, size))
        z = threat.project(far, x)
        assert threat.contains(z, x).all(), spread
        wanted = threat.distance(far.clamp(0, 1), x).clamp_max(threat.radius)
        assert (threat.distance(z, x) > 0.5 * wanted).all()


def test_an_eps_wider_than_the_box_is_refused():
    with pytest.raises(UserError, match="did you mean 8/255"):
        Threat("linf", 8)
    assert Threat("linf", 1.0).radius == 1.0


@pytest.mark.parametrize(("norm", "most"), [("linf", 1.0), ("l2", 12**0.5), ("l1", 12), ("l0", 4)])
def test_an_eps_beyond_every_image_is_refused(norm, most):
    Threat(norm, most).check_reach((3, 2, 2))
    Threat(norm, "unbounded").check_reach((3, 2, 2))
    if norm != "linf":  # refused at once
        with pytest.raises(UserError, match="wider than the pixel box: no two images of 3x2x2"):
            Threat(norm, most * 1.01).check_reach((3, 2, 2))


@pytest.mark.parametrize("rounds", [1, 4, 7, 12])
@pytest.mark.parametrize(("norm", "eps"), [("l1", 2.0), ("l2", 0.2)])
def test_points_that_take_no_more_rounds_are_those_of_project(norm, eps, rounds):
    ids, threat = torch.arange(64), Threat(norm, eps)
    x = Rng(0, ids, "x").uniform((3, 8, 8))
    z = x + Rng(0, ids, "z").normal((3, 8, 8)) * torch.linspace(0, 3, 64)[:, None, None, None]
    point, taken = threat.projected(z, x, rounds)
    found = taken <= rounds
    assert found.any()
    assert torch.equal(point[found], threat.project(z, x)[found])


def test_a_guess_is_what_it_took_and_some_more():
    guess = Guess(8, 16, spare=0.5)
    assert guess.enough(np.array([3.0, 8.0]))
    assert guess.value == 12
    assert not guess.enough(np.array([17.0]))
    assert guess.value == 16
    assert [guess.enough(np.array([2.0])) and guess.value for _ in range(4)] == [9, 6, 4, 3]


def test_every_threat_projects_in_one_way():
    """Attacks read the projection late (`projected`); a threat with another `project` would be left by them."""
    import gauntlet.threat_model.color
    import gauntlet.threat_model.patch
    import gauntlet.threat_model.spatial  # noqa: F401

    found, waiting = [], [Threat]
    while waiting:
        below = waiting.pop().__subclasses__()
        found += below
        waiting += below
    assert len(found) >= 4
    assert all("project" not in vars(kind) for kind in found)

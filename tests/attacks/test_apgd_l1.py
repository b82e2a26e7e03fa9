import pytest
import torch
from torch import nn

from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.apgd_l1 import APGDL1State, phases
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 40, 100])
def test_the_phases_spend_the_steps_and_end_at_eps(steps):
    plan = phases(steps)
    assert sum(count for _, count in plan) == steps
    assert all(count > 0 for _, count in plan)
    assert plan[-1][0] == 1


def test_the_phases_of_a_hundred_steps():
    assert phases(100) == [(3, 30), (2, 30), (1, 40)]


def test_the_cost_of_a_survivor(case):
    """One gradient more than steps in each of the three phases."""
    _, counts = case.attack(APGD(steps=100), Threat("l1", 1e-5))
    assert counts.forwards.tolist() == [103] * len(case.ids)
    assert counts.backwards.tolist() == [103] * len(case.ids)


class Plane(nn.Module):
    """Two logits, zero and w x - b: never fooled inside the ball, so that the whole run is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(Rng(0, torch.arange(1), "w").normal((64,))[0], requires_grad=False)

    def forward(self, x):
        up = x.flatten(1) @ self.w - 1e3
        return torch.stack([0 * up, up], 1)


@pytest.mark.parametrize("eps", [0.5, 3.0, 12.0])
def test_it_nears_the_best_point_of_a_linear_model(make_case, eps):
    """The optimum moves the pixels of largest weight to their box, one after the other, until eps is spent."""
    case = make_case()
    network = Plane()
    case.network = network
    case.victim = type(case.victim)(lambda x, rng: network(x), (network,))
    case.x = Rng(1, case.ids, "x").uniform((1, 8, 8))
    case.y = network(case.x).argmax(1)
    z, _ = case.attack(APGD(steps=100), Threat("l1", eps))
    order = network.w.abs().argsort(descending=True)
    room = torch.where(network.w > 0, 1 - case.x.flatten(1), case.x.flatten(1))[:, order]
    move = (eps - (room.cumsum(1) - room)).clamp_min(0).minimum(room)
    optimum = move @ network.w.abs()[order]
    gain = (z - case.x).flatten(1) @ network.w
    assert (gain > 0.75 * optimum).all()
    assert (gain <= optimum * (1 + 1e-4)).all()


def test_a_step_moves_two_thirds_as_many_entries_as_the_best_point_has_changed():
    x = torch.full((1, 1, 6, 6), 0.5)
    gradient = Rng(0, torch.arange(1), "g").normal((1, 6, 6))
    changed = x.clone()
    changed[0, 0, :3] += 0.1
    state = APGDL1State.start(x, changed, gradient, torch.zeros(1))._replace(step=torch.full((1,), 0.05))
    moved = state.ahead(Threat("l1", 2.0), x, 36) - changed
    assert (moved.abs() > 1e-6).sum() == 12
    assert moved.abs().sum().item() == pytest.approx(0.1)


def test_the_step_shrinks_until_the_best_point_is_sparser():
    x = torch.full((1, 1, 6, 6), 0.5)
    many, few = x + 0.01, x.clone()
    few[0, 0, 0] += 0.1
    state = APGDL1State.start(x, many, 0 * x, torch.zeros(1))
    for _ in range(9):
        state = state.check(x)
    assert state.step.item() == pytest.approx(0.1)
    state = state.observe(few, 0 * x + 1, torch.ones(1)).observe(many, 0 * x, torch.zeros(1)).check(x)
    assert state.step.item() == 1
    assert torch.equal(state.z, few)
    assert torch.equal(state.gradient, 0 * x + 1)

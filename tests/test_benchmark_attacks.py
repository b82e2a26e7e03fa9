"""The counts of the comparison with other libraries, which none of them is needed for."""

import math

import torch
from torch import Tensor, nn

from benchmarks.attacks import Hooks, Row, contestants, measured, ours, targets
from gauntlet.attacks.black_box.square import Square
from gauntlet.attacks.pgd import PGD
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, plain


class Slope(nn.Module):
    """Logits 0 and the mean of the pixels over a half: what is far from a half stands."""

    def forward(self, x: Tensor) -> Tensor:
        height = x.flatten(1).mean(1) - 0.5
        return torch.stack([torch.zeros_like(height), height], 1)


def images() -> tuple[Tensor, Tensor]:
    """The first four are out of reach of eps = 0.1, the others, told apart by bars, fall sooner or later."""
    height = torch.tensor([0.05, 0.3, 0.7, 0.95, 0.45, 0.52, 0.56, 0.58])
    x = height[:, None, None, None].expand(8, 1, 4, 4).clone()
    bars = 0.3 * torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1]])
    x[4:] += torch.cat([bars[:, None, :].expand(2, 4, 4), bars[:, :, None].expand(2, 4, 4)])[:, None]
    return x, (height > 0.5).long()


def test_a_survivor_of_pgd_costs_a_gradient_each_step_and_one_end_point() -> None:
    x, y = images()
    row = measured(
        lambda *given: ours(PGD(steps=7, step_size=1.0), *given),
        Slope(),
        x,
        y,
        Threat("linf", 0.1),
        samples=10,
        repeats=1,
    )
    assert (row.robust, row.outside) == (0.4, 0)
    assert (row.forwards, row.backwards, row.cost) == (8, 7, 22)
    assert row.seconds > 0


def test_queries_have_no_gradient() -> None:
    x, y = images()
    row = measured(
        lambda *given: ours(Square(queries=9), *given), Slope(), x, y, Threat("linf", 0.01), samples=8, repeats=1
    )
    assert (row.forwards, row.backwards) == (9, 0)
    assert math.isnan(row.per_gradient)


def test_hooks_and_the_door_count_the_same_for_each_image() -> None:
    x, y = images()
    network, hooks, ids = Slope(), Hooks(x), torch.arange(len(x))
    network.register_forward_hook(hooks)
    counts = Counts.of(ids)
    head = CountedHead(Head("true", plain(network), exact=True), plain(network), counts)
    PGD(steps=20, restarts=2)(head, x, y, threat=Threat("linf", 0.1), rng=Rng(0, ids))
    assert hooks.forwards.tolist() == counts.forwards.tolist()
    assert hooks.backwards.tolist() == counts.backwards.tolist()
    assert len(set(hooks.forwards.tolist())) > 2


def test_what_lies_outside_the_ball_is_robust_and_said() -> None:
    x, y = images()
    row = measured(lambda network, x, y, threat: 1 - x, Slope(), x, y, Threat("linf", 0.1), samples=8, repeats=1)
    assert (row.robust, row.outside) == (1, 8)


def test_targets_name_what_misses_them() -> None:
    good = Row(0.5, 0, 41, 40, 1.0, 1.1, 1.04)
    worse = Row(0.6, 0, 41, 40, 1.0, 1.3, 1.2)
    met = targets({("pgd", "gauntlet"): good, ("pgd", "other"): worse})
    assert all(line.endswith(": met") for line in met)
    missed = targets({("pgd", "gauntlet"): worse, ("pgd", "other"): good})
    assert [line.rsplit(": ", 1)[1] for line in missed] == [
        "pgd 60.0 against other pgd 50.0", "pgd 1.30 against other 1.10", "pgd 1.20"
    ]  # fmt: skip


def test_the_first_of_each_group_is_ours() -> None:
    seen: set[str] = set()
    for attack, library, _, _ in contestants():
        assert attack in seen or library == "gauntlet"
        seen.add(attack)

"""Bounds of entries: those of whole nodes in float64, and never above them in arithmetic that rounds."""

import pytest
import torch
from torch import nn

from gauntlet.certification.crown.centred import Centred, trusted
from gauntlet.certification.crown.entry_bounds import EntryBounds
from gauntlet.certification.crown.ibp import intervals
from gauntlet.certification.crown.input_region import fall_in_ball, legal
from gauntlet.certification.crown.margin_bounds import Asked
from gauntlet.threat_model.threat import Threat
from tests.certification.crown.conftest import Pixels, images, network_of, seeded
from tests.certification.crown.test_windows import NETWORKS, SHAPE

THREATS = {"linf": Threat("linf", 0.05), "l2": Threat("l2", 0.3)}

PHASED = seeded(
    nn.Sequential(
        Pixels(), nn.Conv2d(2, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 5, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 3),
    )
)  # fmt: skip
CURVED = seeded(
    nn.Sequential(
        Pixels(), nn.Conv2d(2, 4, 3, 2, 1), nn.Tanh(), nn.Conv2d(4, 5, 3, 2, 1), nn.Sigmoid(), nn.Flatten(),
        nn.Linear(45, 6), nn.ReLU(), nn.Linear(6, 3),
    )
)  # fmt: skip
EVERY = {**NETWORKS, "phases": PHASED, "curves": CURVED}


def both(network, threat, dtype):
    """For each node that a ReLU reads: lower bounds of some entries and of their negatives, by entry and by CROWN of
    the whole node in float64."""
    made, x = network_of(network, SHAPE), images(2, SHAPE)
    region = legal(threat, x)
    ranges = intervals(made.exact, region)
    for memory in (0.2, 16.0):
        asked = EntryBounds(made.exact, made.exact.to(dtype), region, memory)
        if dtype == torch.float64:
            asked.centred.unit = 2.0**-53
        asked.centred.extend(ranges)
        for node in sorted({*made.exact.rectified(), *made.exact.curved()}):
            shape = torch.Size(made.exact.nodes[node].shape)
            if not made.exact.behind_relu()[node]:
                continue
            some = torch.arange(0, shape.numel(), 3)
            entry, owner = some.repeat(2), torch.arange(2).repeat_interleave(len(some))
            rows = torch.eye(shape.numel(), dtype=torch.float64)[entry].reshape(-1, *shape)
            value = asked.centred.values[node].flatten(1)[owner, entry]
            for side in (1.0, -1.0):
                whole = Asked(made, region, ranges, node, memory).answer(
                    owner, lambda piece, rows=side * rows: rows[piece]
                )
                yield side * value - asked.falls(node, owner, entry, side), whole


@pytest.mark.parametrize("threat", list(THREATS))
@pytest.mark.parametrize("name", list(EVERY))
def test_an_entry_has_the_bounds_that_its_whole_node_gives(name, threat):
    found = list(both(EVERY[name], THREATS[threat], torch.float64))
    assert len(found) >= 4
    for ours, whole in found:
        torch.testing.assert_close(ours, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threat", list(THREATS))
@pytest.mark.parametrize("name", list(EVERY))
def test_rounding_never_raises_a_bound(name, threat, dtype):
    """In bfloat16 each product is off by up to a 256th: what is not charged would show."""
    for ours, whole in both(EVERY[name], THREATS[threat], dtype):
        assert (ours <= whole + 1e-9).all()
        if dtype == torch.float32:
            assert (whole - ours <= 1e-4 * (1 + whole.abs())).all()


def test_coefficients_that_cancel_are_charged_for_what_they_lose():
    """Of one pixel every entry of the second layer is a multiple, small beside the terms that bfloat16 adds up."""
    rng = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 3))
    seeded(network)
    network[1].weight.data = 1 + torch.rand(64, 1, generator=rng)
    network[1].bias.data.fill_(1.0)  # all open
    network[3].weight.data = torch.randn(100, 64, generator=rng)
    drift = network[3].weight @ network[1].weight / network[1].weight.square().sum()
    network[3].weight.data -= 0.99 * drift * network[1].weight.T
    made = network_of(network, (1, 1, 1))
    region = legal(Threat("linf", 0.1), torch.full((1, 1, 1, 1), 0.5))
    asked = EntryBounds(made.exact, made.exact.to(torch.bfloat16), region, 16.0)
    asked.centred.extend(intervals(made.exact, region))
    fall = asked.falls(4, torch.zeros(100, dtype=torch.int64), torch.arange(100), 1.0)
    slope = (network[3].weight.double() @ network[1].weight.double()).squeeze(1).abs()
    assert (fall >= 0.1 * slope).all()
    assert (fall <= 0.1 * slope + 50.0).all()


def test_sums_that_round_bound_those_that_do_not():
    made = network_of(PHASED, SHAPE)
    asked = EntryBounds(made.exact, made.exact.to(torch.bfloat16), legal(THREATS["linf"], images(1, SHAPE)), 16.0)
    rng = torch.Generator().manual_seed(0)
    for size in (7, 64, 300, 1152):
        a, field = (torch.rand(500, size, generator=rng).bfloat16() for _ in range(2))
        exact = (a.double() * field.double()).sum(1)
        assert (asked._cost(a, field) >= exact).all()
        assert (asked._cost(a, field) <= exact * 1.3).all()


def test_rounded_lines_hold_at_both_ends():
    made, x = network_of(PHASED, SHAPE), images(4, SHAPE)
    region = legal(THREATS["linf"], x)
    ranges, centred = intervals(made.exact, region), Centred(made.exact, region, torch.bfloat16)
    centred.extend(ranges)
    for at, bend in centred.bends.items():
        source = made.exact.nodes[at].inputs[0]
        z0 = centred.values[source]
        lower, upper, below, above = (v.double() for v in (bend.lower, bend.upper, bend.below, bend.above))
        error = centred.error[source]
        spent = error + centred.unit * centred.reach[source].double() * (
            upper != 1
        )  # by z, and by products with slopes
        below, above = ((1 + 1.1 * centred.unit) * v for v in (below, above))  # sums make up for their rounding
        for z in (ranges.lower[source], ranges.upper[source], 0.0 * z0):
            held = (z >= ranges.lower[source]) & (z <= ranges.upper[source])
            moved = z.clamp_min(0) - z0.clamp_min(0)
            assert (lower * (z - z0) - below + lower * error <= moved + 1e-9)[held].all()
            assert (upper * (z - z0) + above - upper * spent >= moved - 1e-9)[held].all()


def test_the_fall_in_a_cut_ball_is_that_of_the_region():
    x, a = images(30, (1, 3, 3)) ** 4, torch.randn(30, 1, 3, 3, generator=torch.Generator().manual_seed(2)).double()
    region = legal(Threat("l2", 0.8), x)
    rows, low, high = (v.flatten(1) for v in (a, region.lower - region.centre, region.upper - region.centre))
    fall = fall_in_ball(rows, low, high, region.radius[:, None])
    expected = (a * region.centre).flatten(1).sum(1) - region.least(a, torch.arange(30))
    torch.testing.assert_close(fall, expected, rtol=1e-12, atol=1e-12)


def test_arithmetic_that_rounds_more_is_not_trusted():
    cpu = torch.device("cpu")
    assert trusted(cpu) == torch.float32
    assert trusted(torch.device("cuda")) == torch.float64
    with torch.autocast("cpu"):
        assert trusted(cpu) == torch.float64
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert trusted(cpu) == torch.float64
    finally:
        torch.set_float32_matmul_precision(before)

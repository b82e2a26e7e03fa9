"""Patches: membership against enumeration, the projection against all places, and what is refused."""

import itertools

import numpy as np
import pytest
import torch

from gauntlet.errors import UserError
from gauntlet.threat_model.patch import PatchThreat
from gauntlet.threat_model.rng import Rng
from gauntlet.verification.row_checks import distance_of

SHAPES = [{}, {"count": 2}, {"count": 3}, {"aspect": 0.5, "count": 2}, {"aspect": 1.5}, {"row": 1, "column": 2}]


def images(count=6, size=(5, 6)):
    return Rng(0, torch.arange(count), "x").uniform((2, *size), 0.2, 0.8)


def enumerated(changed, shape):
    """The least width of such patches over all their places, by trying each; infinite: none."""
    aspect, count, (rows, columns) = shape.get("aspect", 1.0), shape.get("count", 1), changed.shape
    for width in sorted({float(n) for n in range(1, columns + 1)} | {n / aspect for n in range(1, rows + 1)}):
        high, wide = min(int(width * aspect + 1e-6), rows), min(int(width + 1e-6), columns)
        tops, lefts = range(rows - high + 1), range(columns - wide + 1)
        if "row" in shape:
            tops, lefts = [shape["row"]], [shape["column"]]
        for corners in itertools.combinations_with_replacement(itertools.product(tops, lefts), count):
            left = changed.copy()
            for top, side in corners:
                left[top : top + high, side : side + wide] = False
            if high and wide and not left.any():
                return width
    return np.inf


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_distance_is_the_least_width_that_covers_all_changes_and_the_verifier_says_the_same(shape):
    x = images(16)
    changed = Rng(1, torch.arange(16), "at").uniform((1, 5, 6)) < torch.linspace(0.02, 0.25, 16)[:, None, None, None]
    changed[0] = False
    if "row" in shape:
        changed[8:, :, :1] = changed[8:, :, :, :2] = False
    z = torch.where(changed, 1.0, x)
    found = PatchThreat(eps=3, **shape).distance(z, x)
    wanted = [0.0 if not c.any() else enumerated(c[0].numpy(), shape) for c in changed]
    assert found.tolist() == wanted
    facts = {"norm": "patch", "radius": 99.0, "low": 0.0, "high": 1.0, **shape}
    said = [distance_of(z[k].numpy(), x[k].numpy(), facts)[0] for k in range(16)]
    assert said == wanted


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_points_of_the_set_stay_and_others_come_in(shape):
    threat, x = PatchThreat(eps=2, **shape), images()
    for z in (
        threat.random(x, Rng(0, torch.arange(6))),
        threat.project(x + Rng(2, torch.arange(6), "z").normal((2, 5, 6)), x),
    ):
        assert threat.contains(z, x).all()
        assert (threat.distance(z, x) > 0).all()
        if "count" not in shape:  # several are placed one after the other
            assert torch.equal(threat.project(z, x), z)
    assert not threat.contains(1 - x, x).any()
    assert not threat.contains(torch.full_like(x, torch.nan), x).any()
    outside = x.clone()
    outside[:, :, 1, 2] = 1.1
    assert not threat.contains(outside, x).any()


def test_one_patch_is_projected_to_the_nearest_point():
    threat, x = PatchThreat(eps=2, aspect=1.5), images()
    z = x + Rng(2, torch.arange(6), "z").normal((2, 5, 6))
    found = (threat.project(z, x) - z).square().flatten(1).sum(1)
    for top, left in itertools.product(range(3), range(5)):
        there = threat.located(torch.tensor([[[top, left]]]).expand(6, 1, 2))
        assert (found <= (there.project(z, x) - z).square().flatten(1).sum(1) + 1e-6).all()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: PatchThreat(norm="l2"), "not that of patches"),
        (lambda: PatchThreat(eps=0.9), "less than a pixel"),
        (lambda: PatchThreat(count=4), "1 to 3"),
        (lambda: PatchThreat(aspect=float("nan")), "aspect"),
        (lambda: PatchThreat(row=1), "go together"),
        (lambda: PatchThreat(row=1, column=1, count=2), "single patch"),
        (lambda: PatchThreat(eps=3).check_reach((1, 3, 3)), "covers all"),
        (lambda: PatchThreat(row=3, column=0).check_reach((1, 4, 4)), "leaves the image"),
        (lambda: PatchThreat(aspect=0.4).check_reach((1, 4, 4)), "no height"),
        (lambda: PatchThreat(eps="unbounded").size(images()), "need a width"),
        (lambda: PatchThreat().scaled(torch.ones(1)), "one size"),
    ],
)
def test_what_is_unfit_is_named(made, said):
    with pytest.raises(UserError, match=said):
        made()

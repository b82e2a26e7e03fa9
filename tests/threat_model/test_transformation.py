"""Rotations, translations and colors against closed forms; parameters are judged, recorded and checked again."""

import colorsys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gauntlet.attacks.parameter_search import ParameterSearch
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.color import ColorThreat
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.spatial import SpatialThreat
from gauntlet.threat_model.victim import Victim, plain
from gauntlet.verification.transformed_examples import parameter_problems, transformed_distance

IDS = torch.arange(12)
SPATIAL = SpatialThreat(eps=2, rotation=45.0, translation=0.125)


def images(channels=1, size=(8, 8)):
    return Rng(0, IDS, "x").uniform((channels, *size))


def test_a_quarter_turn_and_whole_pixels_are_exact():
    x = images()
    quarter = SPATIAL.realized(torch.tensor([[2.0, 0.0, 0.0]]).expand(12, 3), x)
    assert torch.allclose(quarter, x.rot90(1, (2, 3)), atol=1e-5)
    moved = SPATIAL.realized(torch.tensor([[0.0, 1.0, -2.0]]).expand(12, 3), x)  # down by 1 pixel, left by 2
    assert torch.allclose(moved[:, :, 1:, :-2], x[:, :, :-1, 2:], atol=1e-6)
    assert not moved[:, :, 0].any()
    assert not moved[:, :, :, -2:].any()
    wide = images(size=(6, 10))
    half = SpatialThreat(rotation=180.0).realized(torch.tensor([[1.0, 0.0, 0.0]]).expand(12, 3), wide)
    assert torch.allclose(half, wide.rot90(2, (2, 3)), atol=1e-5)
    # On images that are not square: turned and moved, a bright pixel lands where rotation about the center takes it.
    point = torch.zeros(1, 1, 7, 11)
    point[0, 0, 3, 8] = 1.0  # 3 to the right of the center
    up = SpatialThreat(rotation=90.0, translation=1.0).realized(torch.tensor([[1.0, 1 / 7, 2 / 11]]), point)
    assert up.flatten().argmax() == (3 - 3 + 1) * 11 + 5 + 2


@pytest.mark.parametrize(("hue", "saturation"), [(0.2, 0.0), (-0.7, 0.3), (1.0, -1.0), (0.3, 1.0)])
def test_colors_are_those_of_hsv(hue, saturation):
    x = images(3, (2, 2))
    x[0] = 0.4
    x[1, :, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    threat = ColorThreat(hue=0.5, saturation=1.0)
    z = threat.realized(torch.tensor([[hue, saturation]]).expand(12, 2), x)
    for before, after in zip(x.permute(0, 2, 3, 1).reshape(-1, 3), z.permute(0, 2, 3, 1).reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before.tolist())
        wanted = colorsys.hsv_to_rgb((h + hue / 2) % 1, min(max(s + saturation, 0), 1) if s else 0, v)
        assert after.tolist() == pytest.approx(wanted, abs=2e-6)


@pytest.mark.parametrize("threat", [SPATIAL, ColorThreat()], ids=lambda t: t.norm)
def test_parameters_are_members_have_gradients_and_do_nothing_at_zero(threat):
    x = images(3)
    u = threat.random(x, Rng(1, IDS))
    assert threat.contains(u, x).all()
    assert threat.project(3 * u, x).abs().amax() <= threat.radius
    assert threat.contains(u.new_full(u.shape, torch.nan), x).sum() == 0
    assert not threat.contains(torch.full_like(u, 1.01 * threat.radius), x).any()
    still = torch.zeros_like(u)
    assert torch.equal(threat.realized(still, x), x)
    (slope,) = torch.autograd.grad((threat.realized(still.requires_grad_(), x) * images(3).flip(0)).sum(), still)
    assert (slope != 0).all()
    z = threat.realized(u, x)
    assert ((z >= 0) & (z <= 1)).all()


class Brightest(nn.Module):
    """The column of the image's center of mass: left or right of 60 % of the width."""

    def forward(self, x):
        at = (x.sum((1, 2)) * torch.linspace(0, 1, x.shape[3])).sum(1) / x.sum((1, 2, 3)).clamp_min(1e-6)
        return torch.stack([0.6 - at, at - 0.6], 1)


def test_an_evaluation_records_parameters_and_they_are_checked_again():
    x = torch.zeros(12, 1, 9, 9)
    for sample in range(12):
        x[sample, 0, 4, 3 + sample % 3] = 1.0  # 0.375, 0.5 and 0.625 of the way
    y, network = torch.zeros(12, dtype=torch.int64), Brightest()
    threat = SpatialThreat(rotation=0.0, translation=1 / 9)
    run = Evaluation(Victim(plain(network), (network,)), ("s", ParameterSearch(points=3, starts=0)), threat, 2)
    chunk = evaluate_chunk(run, Batch(IDS, x, y))
    rows = list(chunk.rows.to_pandas().itertuples(index=False))
    attacked = [row for row in rows if row.stage != "clean"]
    assert [row.sample for row in attacked if row.broken] == [1, 4, 7, 10]  # from 0.5, one pixel to the right
    assert all(row.parameters is None for row in rows if row.stage == "clean")
    assert not [line for row in attacked for line in parameter_problems(row)]
    sample, z = chunk.adversarial["sample"], chunk.adversarial["z"]
    row = next(row for row in attacked if row.sample == sample[0])
    assert row.parameters.tolist()[2] == 1.0
    assert transformed_distance(row, z[0], x[sample[0]], threat) == (1.0, "")
    for change, said in (
        ({"parameters": [0.0, 0.0, 1.2]}, "more than eps"),
        ({"parameters": [0.0, 0.0, 0.5]}, "another image"),
        ({"parameters": None}, "missing"),
        ({"parameters": [1.0]}, "cannot be applied"),
    ):
        odd = SimpleNamespace(**row._asdict() | change)
        assert said in transformed_distance(odd, z[0], x[sample[0]], threat)[1]
    odd = SimpleNamespace(**row._asdict() | {"distance": 0.5})
    assert "do not use" in "".join(parameter_problems(odd))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: SpatialThreat(norm="color"), "take threat=color"),
        (lambda: SpatialThreat(eps=7), "at most 180"),
        (lambda: SpatialThreat(rotation=-1.0), ">= 0"),
        (lambda: SpatialThreat(rotation=0.0, translation=0.0), "all limits are zero"),
        (lambda: ColorThreat().check_reach((1, 8, 8)), "1 channels"),
        (lambda: ColorThreat().scaled(torch.ones(1)), "one size"),
    ],
)
def test_what_is_unfit_is_named(made, said):
    with pytest.raises(UserError, match=said):
        made()

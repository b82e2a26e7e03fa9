"""Votes of bands against every patch that fits, on images small enough to try them all."""

import itertools

import pytest
import torch
from torch import nn

from gauntlet.certification.band_ablation import Banded, Bands
from gauntlet.certification.certifier import Work
from gauntlet.certification.patches import Patches
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

SIZE = 6


class Linear(nn.Module):
    """Random class scores of the pixels that a band shows, large enough for bands to disagree."""

    def __init__(self, seed, classes=3):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(classes, SIZE * SIZE, generator=rng)
        self.bias = torch.tensor([1.0, 0.0, 0.0])

    def forward(self, x):
        return (x.flatten(1) - 0.5) @ self.weight.T + self.bias


def certify(banded, x):
    victim = Victim(lambda z, rng: banded.scores(banded.logs(z)), (), mechanism=banded)
    threat = Threat("patch", 1)
    Patches().check(victim, threat)
    return Patches()(victim, x, None, threat=threat, rng=Rng(0, torch.arange(len(x))), work=Work())


def patched(x, side):
    """The image with every black and white square of that side in every place, [P, 1, 6, 6]."""
    squares = torch.tensor(list(itertools.product([0.0, 1.0], repeat=side * side))).reshape(-1, side, side)
    out = []
    for row, column in itertools.product(range(SIZE - side + 1), repeat=2):
        z = x.expand(len(squares), 1, SIZE, SIZE).clone()
        z[:, 0, row : row + side, column : column + side] = squares
        out.append(z)
    return torch.cat(out)


@pytest.mark.parametrize("width", [1, 2])
def test_no_patch_overturns_what_is_certified(width):
    fallen = 0
    sides = set()
    for seed in range(12):
        banded = Banded(Linear(seed), Bands(width, SIZE, 0.4))
        x = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
        found = certify(banded, x)
        sides.add(float(found.radius))
        for side in (1, 2):
            changed = (banded.scores(banded.logs(patched(x, side))).argmax(1) != found.predict).any()
            assert not (changed and found.radius >= side)
            fallen += int(changed)
    assert {0.0, 1.0} <= sides
    assert fallen > 5


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_patch_is_seen_by_as_many_bands_as_are_counted(width, side):
    bands = Bands(width, SIZE)
    x = torch.full((1, 1, SIZE, SIZE), 0.25)
    for column in range(SIZE - side + 1):
        z = x.clone()
        z[..., column : column + side] = 0.75
        seen = sum(not torch.equal(bands.view(x, first), bands.view(z, first)) for first in range(SIZE))
        assert seen == side + width - 1


def test_the_lead_that_a_side_needs():
    bands = Bands(3, 30)
    for lead in range(31):
        side = int(bands.side(torch.tensor(lead)))
        reached = 2 * (side + 3 - 1)
        assert side == 0 or reached < lead
        assert 2 * (side + 1 + 3 - 1) >= lead


def test_the_worst_voters_fall_just_beyond():
    """Bands that turn as soon as they see white: the count is what a patch needs, no less."""

    class Turns(nn.Module):
        def forward(self, x):
            white = (x.flatten(1) > 0.9).any(1).float()[:, None]
            return 9 * (torch.tensor([[1.0, 0.0]]) * (1 - white) + torch.tensor([[0.0, 1.0]]) * white)

    banded = Banded(Turns(), Bands(1, SIZE, 0.5))
    x = torch.zeros(1, 1, SIZE, SIZE)
    found = certify(banded, x)
    assert (found.predict.tolist(), found.radius.tolist(), found.counts.tolist()) == ([0], [2.0], [[6]])
    assert (found.forwards.tolist(), found.samples.tolist()) == ([6], [0])
    for side, falls in ((2, False), (4, True)):
        z = x.clone()
        z[..., :side, :side] = 1.0
        assert bool(banded.scores(banded.logs(z)).argmax(1) != 0) == falls


def test_equal_votes_certify_nothing_and_are_decided_by_the_mean():
    class Halves(nn.Module):
        def forward(self, x):
            side = (x.flatten(1).sum(1) - SIZE * SIZE / 2)[:, None]
            return torch.cat([side * 8, -side * 9], 1)

    x = torch.full((1, 1, SIZE, SIZE), 0.4)
    x[..., : SIZE // 2] = 0.6
    banded = Banded(Halves(), Bands(1, SIZE, 0.5))
    logs = banded.logs(x)
    assert banded.votes(logs).tolist() == [[3, 3]]
    found = certify(banded, x)
    assert found.radius.tolist() == [0.0]
    assert found.predict.tolist() == [int(logs.exp().mean(0).argmax())]


def test_random_bands_are_those_that_vote():
    bands, ids = Bands(2, SIZE), torch.arange(600)
    x = torch.rand(600, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 0.4
    drawn = bands(x, Rng(0, ids, "noise"), 0)
    every = torch.stack([bands.view(x, first) for first in range(SIZE)])
    same = (drawn == every).flatten(2).all(2)
    assert (same.sum(0) == 1).all()
    assert (same.sum(1) > 60).all()


def test_what_is_unfit_is_named():
    for make, said in (
        (lambda: Bands(0, 8), "width=0"),
        (lambda: Bands(9, 8), "width=9"),
        (lambda: Bands(2, 8, 0.0), "threshold"),
        (lambda: Bands(2, 8).view(torch.zeros(1, 1, 6, 6), 0), "size=8"),
        (lambda: Patches().check(Victim(plain(nn.Identity()), ()), Threat("patch", 1)), "defense=band_smoothing"),
        (lambda: Threat("patch", 1).project(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)), "no attack knows"),
    ):
        with pytest.raises(UserError, match=said):
            make()

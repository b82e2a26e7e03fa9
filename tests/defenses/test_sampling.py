"""Probabilities of randomized ensembles: golden values of two members, the program against the sub-gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gauntlet.commands import calibrate_ensemble
from gauntlet.commands.calibrate_ensemble import calibrate
from gauntlet.defenses.optimal_sampling import largest, linear_programme, members, on_simplex, risk, subgradient
from gauntlet.errors import UserError
from gauntlet.metrics.ensemble_bounds import at, least, risks
from gauntlet.threat_model.threat import Threat

EQUAL = np.array([0.5, 0.5])


def sets_of(count):
    """A number of members, and for each sample the sets of them that fall together."""
    one = st.sets(st.integers(0, 2**count - 1), max_size=4)
    return st.tuples(st.just(count), st.lists(one, min_size=1, max_size=12))


ENSEMBLES = st.integers(1, 5).flatmap(sets_of)


def two(first, second, apart):
    """Sets of 100 samples: individual risks of two members, and the share that both can lose, but never at once."""
    one, other = round(100 * (first - apart)), round(100 * (second - apart))
    both = min(one, other)
    kinds = [({1, 2}, round(100 * apart)), ({3}, both), ({1}, one - both), ({2}, other - both)]
    sets = [kind for kind, count in kinds for _ in range(count)]
    return sets + [set()] * (100 - len(sets))


@pytest.mark.parametrize(
    ("first", "second", "apart", "equal", "best", "chances"),
    [
        (0.5, 0.5, 0.2, 0.4, 0.4, (0.5, 0.5)),
        (0.4, 0.6, 0.1, 0.45, 0.4, (1, 0)),  # randomizing does not help: the better member alone
        (0.4, 0.5, 0.3, 0.3, 0.3, (0.5, 0.5)),
    ],
)
def test_two_members(first, second, apart, equal, best, chances):
    sets = two(first, second, apart)
    assert risks([sum(each) for each in sets], 2).tolist() == pytest.approx([first, second])
    assert risk(sets, EQUAL) == pytest.approx(equal)
    found = linear_programme(sets, 2)
    assert found.risk == pytest.approx(best)
    assert found.chances == pytest.approx(chances, abs=1e-6)


def test_golden_risk():
    assert risk([{0b011, 0b110}], np.array([0.5, 0.3, 0.2])) == pytest.approx(0.8)


@settings(max_examples=40, deadline=None)
@given(ENSEMBLES, st.integers(0, 2**31))
def test_the_bounds_hold_and_the_programme_is_the_least(drawn, seed):
    count, sets = drawn
    united = [int(np.bitwise_or.reduce([0, *each])) for each in sets]
    found, best = risks(united, count), linear_programme(sets, count)
    low, high = least(found)
    assert low - 1e-9 <= best.risk <= high + 1e-9
    assert risk(sets, best.chances) == pytest.approx(best.risk, abs=1e-7)
    chances = np.random.default_rng(seed).dirichlet(np.ones(count))
    low, high = at(found, chances)
    assert max(low, best.risk) - 1e-7 <= risk(sets, chances) <= high + 1e-9


def test_the_subgradient_comes_near_the_programme():
    draw = np.random.default_rng(0)
    lean = np.array([0.3, 0.45, 0.5, 0.6])  # how easily each member falls
    masks = [draw.random((3, 4)) < lean for _ in range(300)]
    sets = [{int((each << np.arange(4)).sum()) for each in mask.astype(int)} for mask in masks]

    def attack(chances):
        return np.stack([mask[(mask @ chances).argmax()] for mask in masks])

    best, walked = linear_programme(sets, 4), subgradient(attack, 4)
    equal = risk(sets, np.full(4, 0.25))
    assert best.risk <= walked.risk <= equal
    assert walked.risk - best.risk < 0.3 * (equal - best.risk)
    assert risk(sets, walked.chances) == pytest.approx(walked.risk)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_the_projection_onto_the_simplex(point):
    nearest = on_simplex(np.array(point))
    assert nearest.min() >= 0
    assert nearest.sum() == pytest.approx(1)
    others = np.random.default_rng(0).dirichlet(np.ones(len(point)), 50)
    assert (np.linalg.norm(others - point, axis=1) >= np.linalg.norm(nearest - point) - 1e-9).all()


def test_sets_inside_others_do_not_count():
    assert largest([0, 1, 3, 4, 3]) == {3, 4}
    assert members(0b101, 3).tolist() == [1, 0, 1]
    with pytest.raises(UserError, match="no samples"):
        linear_programme([], 2)
    assert linear_programme([set(), {0}], 2).risk == 0


class Corner(torch.nn.Module):
    """Wrong where one pixel is bright: members with different pixels are never wrong for one bright pixel alone."""

    def __init__(self, pixel, needed):
        super().__init__()
        self.pixel, self.needed = pixel, needed

    def forward(self, x):
        margin = self.needed - (x.flatten(1)[:, self.pixel] - 0.5)
        return torch.stack([margin, -margin], 1)


class Images:
    """32 grey images of one class."""

    ids = np.arange(32)

    def __len__(self):
        return 32

    def read(self, positions):
        ids = torch.arange(32)[positions]
        return calibrate_ensemble.Batch(ids, torch.full((len(ids), 1, 1, 2), 0.5), torch.zeros_like(ids))


def test_a_calibration_finds_that_two_members_never_fall_together():
    # Under l2 each can be fooled alone (at distance 0.9 eps), both at once only at distance 1.27 eps.
    models = {"left": Corner(0, 0.09), "right": Corner(1, 0.09), "weak": Corner(0, 0.01)}
    found = calibrate(models, Images(), Threat("l2", 0.1), 32, 10, 10)
    assert found.alone.tolist() == [1, 1, 1]
    assert found.exact.risk == pytest.approx(0.5)
    assert found.exact.chances[1] == pytest.approx(0.5)
    assert found.equal == pytest.approx(2 / 3)
    told = calibrate_ensemble.lines(found)
    assert told[2] == "bounds           0.00% to 66.67% with the best probabilities"
    assert told[-1].startswith('"defense.probabilities=[')


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--part", "test"], "take validation"),
        (["--samples", "0"], "--samples 0"),
        (["defense=none"], "draws no members"),
        (["threat=l1"], "linf or l2"),
        (["defense.members=[pgd_at]"], "give two or more"),
    ],
)
def test_the_command_refuses(arguments, told, capsys):
    assert calibrate_ensemble.main(arguments) == 1
    assert told in capsys.readouterr().err

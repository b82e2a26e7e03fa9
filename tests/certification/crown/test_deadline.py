"""What is begun after a deadline, by a clock that counts the functions that are bounded."""

import pytest
import torch

from gauntlet.certification import branch_and_bound
from gauntlet.certification.branch_and_bound import BranchAndBound
from gauntlet.certification.crown import deadline, margin_bounds, reduced
from gauntlet.certification.crown.deadline import Deadline
from gauntlet.certification.crown.layer_tightening import closer
from gauntlet.certification.crown.reduced import Reduced
from gauntlet.certification.crown.whole_graph import WholeGraph
from gauntlet.threat_model.threat import Threat
from tests.certification.crown.conftest import dense, images, seeded
from tests.certification.crown.test_reduced import case
from tests.certification.test_branch_and_bound import certify

ROUND = 600
"""Functions that what has begun may still bound: both halves of three splits of a part for each of 60 ReLUs."""


@pytest.fixture
def spent(monkeypatch):
    """The functions bounded so far, which are the seconds of the clock."""
    count = [0.0]

    def counted(owner, name, size):
        inner = getattr(owner, name)

        def outer(*args, **more):
            count[0] += size(*args)
            return inner(*args, **more)

        monkeypatch.setattr(owner, name, outer)

    for kind in (WholeGraph, Reduced):
        counted(kind, "taken", lambda self, target, *rest: len(target))
    counted(margin_bounds, "lower_bounds", lambda graph, region, ranges, questions, *rest: len(questions.owner))
    monkeypatch.setattr(deadline, "clock", lambda: count[0])
    return count


def hardest(seconds, inner_steps=8):
    """The certificate of one image that stays open for long; a second is a function."""
    module, x = seeded(dense(36, 60, 60, 3), 1), images(12, (1, 6, 6))[8:9]
    certifier = BranchAndBound(domains=10**6, easy=2, together=4, inner_steps=inner_steps, seconds=seconds)
    return certify(certifier, module, x, module(x).argmax(1), Threat("linf", 0.3))


@pytest.mark.parametrize("seconds", [300, 1000, 3000, 10000])
def test_little_is_begun_after_the_deadline(spent, seconds):
    found = hardest(seconds)
    assert list(found.stop) == ["time"]
    assert seconds <= spent[0] < seconds + ROUND


@pytest.mark.parametrize("large", [False, True])
def test_layers_stay_as_they_are_after_the_deadline(spent, large, monkeypatch):
    if large:
        monkeypatch.setattr(reduced, "CELLS", -1)
    problem = case(7)[4]
    assert isinstance(problem.quick, WholeGraph if large else Reduced)
    before = spent[0]
    ranges = closer(problem, 4, 3, 4.0, Deadline(spent[0] - 1))
    assert spent[0] == before
    for at in problem.entries.places:
        assert torch.equal(ranges.lower[at], problem.ranges.lower[at])
        assert torch.equal(ranges.upper[at], problem.ranges.upper[at])
    some = closer(problem, 4, 3, 4.0, Deadline(spent[0] + 1))
    late = spent[0]
    every = closer(problem, 4, 3, 4.0)
    widths = [sum(float((r.upper[at] - r.lower[at]).sum()) for at in problem.entries.places) for r in (some, every)]
    assert 0 < late - before < spent[0] - late
    assert widths[1] < widths[0]


def test_the_second_bounding_begins_where_time_is_left_for_it(spent, monkeypatch):
    seen, inner = [], branch_and_bound.closer

    def watched(problem, steps, splits, *rest):
        seen.append(splits)
        return inner(problem, steps, splits, *rest)

    monkeypatch.setattr(branch_and_bound, "closer", watched)
    hardest(6000, 1)
    first = list(seen)
    seen.clear()
    hardest(35000, 1)
    assert (first, seen) == ([4], [4, 12])

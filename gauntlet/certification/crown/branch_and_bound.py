"""Branch and bound over the signs of ReLU inputs (Bunel et al. 2020, arXiv 1909.06588): the worst part first."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gauntlet.certification.crown.deadline import NEVER, Deadline
from gauntlet.certification.crown.domains import Domains, Entries, joined
from gauntlet.certification.crown.ibp import Ranges
from gauntlet.certification.crown.input_region import Region
from gauntlet.certification.crown.margin_bounds import Network
from gauntlet.certification.crown.split_bounds import Problem
from gauntlet.certification.crown.split_choice import split

Falls = Callable[[Tensor], Tensor | None]
"""Images float64 [D, C, H, W], some of them outside the threat by rounding -> one that is broken, or None."""

SPARE = 1e-3
"""By how much the search in float32 exceeds what is to be proven in float64."""


PATIENCE, SLOWER = 10, 0.6
"""Searches of a domain that cannot be split before it is given up, each with steps of that part of the last ones."""


@dataclass(frozen=True)
class Budget:
    """What the search may take for one image.

    Args:
        domains: parts that are bounded at most; a round that has begun is finished.
        steps: of the search for slopes and weights of each.
        candidates: splits that are tried for each.
        together: parts that are split in one round.
        deadline: after it no round and no step is begun, but for the first round.
    """

    domains: int
    steps: int
    candidates: int
    together: int
    deadline: Deadline = NEVER


@dataclass(frozen=True)
class SearchOutcome:
    """What became of an image.

    Attributes:
        bounds: proven lower bounds of the functions on the region, float64 [T].
        why: proven, broken, budget, time, or exhausted: a domain without an open sign has been searched often.
        domains: parts that were bounded.
        example: the image that breaks it, [C, H, W]; else None.
    """

    bounds: Tensor
    why: str
    domains: int
    example: Tensor | None = None


def search(problem: Problem, known: Tensor, least: float, budget: Budget, falls: Falls) -> SearchOutcome:
    """Split the domains with the lowest bounds until all bounds exceed `least`, an image falls, or the budget is spent.

    Nothing is random: the answer depends on the problem and on the budget, unless time runs out.

    Args:
        problem: one image; its ranges are those of the whole region.
        known: proven bounds of its functions, float64 [T].
        least: what all of them are to exceed.
        falls: asked about the points at which each domain's linear function is least.
    """
    done, closed = 0, torch.full_like(known, torch.inf)
    heap: list[tuple[float, int, int, Domains]] = []
    fresh, tries = whole(problem, known), torch.zeros(len(known), dtype=torch.int64)
    enough = least + SPARE + problem.excess(fresh)
    while True:
        found = problem.searched(fresh, budget.steps, enough, SLOWER**tries, budget.deadline)
        proven, corner = problem.proven(found)
        found = replace(found, bound=proven.maximum(fresh.bound))
        example = falls(corner)
        for serial, row in enumerate(found.rows(), done):
            if float(row.bound) > least:
                closed[row.target] = closed[row.target].minimum(row.bound)
            else:
                heapq.heappush(heap, (float(row.bound), serial, int(tries[serial - done]), row))
        done += len(found)
        stuck = bool((tries >= PATIENCE).any())
        if example is not None or stuck or not heap or done >= budget.domains or budget.deadline.over:
            break
        worst = [heapq.heappop(heap) for _ in range(min(budget.together, len(heap)))]
        fresh = split(problem, joined([row for *_, row in worst]), budget.candidates)
        again = [tried + 1 for *_, tried, row in worst if not row.unsure.any()]  # they come back first, as they are
        tries = torch.tensor([*again, *[0] * (len(fresh) - len(again))])
    for bound, *_, row in heap:
        closed[row.target] = closed[row.target].clamp_max(bound)
    why = "exhausted" if stuck else "budget" if done >= budget.domains else "time"
    why = "broken" if example is not None else why if heap else "proven"
    return SearchOutcome(known.maximum(closed), why, done, example)


def whole(problem: Problem, known: Tensor) -> Domains:
    """Return the undivided region, once for each function, with the slopes of CROWN."""
    low, high = (problem.entries.gather(dict(enumerate(v))) for v in (problem.ranges.lower, problem.ranges.upper))
    free = torch.zeros(len(known), problem.entries.count, device=known.device)
    functions = torch.arange(len(known), device=known.device)
    return Domains(functions, known, free.to(torch.int8), (high > -low).float().expand_as(free))


def problem_of(network: Network, region: Region, ranges: Ranges, rows: Tensor) -> Problem:
    """Return the problem of one image; rows: the functions, float64 [T, K]."""
    return Problem(network, region, ranges, rows, Entries.of(network.exact, ranges))

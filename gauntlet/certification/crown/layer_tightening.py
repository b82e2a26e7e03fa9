"""Bounds of ReLU inputs of one image by parts of its region: searched in its reduced network, proven in the whole."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.crown.deadline import NEVER, Deadline
from gauntlet.certification.crown.domains import Domains, Entries, joined
from gauntlet.certification.crown.graph import Graph
from gauntlet.certification.crown.ibp import Ranges, intervals
from gauntlet.certification.crown.margin_bounds import Network, tightened
from gauntlet.certification.crown.reduced import Reduced
from gauntlet.certification.crown.split_bounds import Problem
from gauntlet.certification.crown.split_choice import split

SMALL = 1e-12
"""Least size of a bound of an entry whose sign is taken for open."""

WORTH = 0.005
"""Part of the width of an interval that a bound must gain in the search to be proven."""

TOGETHER = 128
"""Questions that are searched together, and parts that are proven together."""

CANDIDATES = 3
"""Signs that are tried for each split."""


def closer(problem: Problem, steps: int, splits: int, memory: float, deadline: Deadline = NEVER) -> Ranges:
    """Return the bounds of all nodes, no looser than those of the problem, by so many steps for the slopes of each.

    Each open ReLU input is bounded from above and, where its sign stays open, from below. For each of these questions
    by itself the part of the region with the lowest bound is split, `splits` times, with half of the steps for each
    half; the bound is the least of those of its parts. A network that cannot be reduced takes `tightened`. What is not
    bounded when the deadline passes stays as it is.
    """
    network, region, known, quick = problem.network, problem.region, problem.ranges, problem.quick
    if not isinstance(quick, Reduced):
        return tightened(network, region, known, steps, memory, deadline)
    nodes = list(problem.entries.places)

    def tighten(ranges: Ranges, node: int) -> tuple[Tensor, Tensor]:
        lower, upper = ranges.lower[node].maximum(known.lower[node]), ranges.upper[node].minimum(known.upper[node])
        number = nodes.index(node)
        if not number:  # intervals are exact there
            return lower, upper.maximum(lower)
        layer = _Layer(problem, _opened(problem.entries.before(number), ranges), quick, number, steps, splits, deadline)
        shape, places = lower.shape, problem.entries.places[node]
        low, high = lower.flatten(), upper.flatten()
        for side in (-1.0, 1.0):  # from above first: where the ReLU is zero nothing else matters
            at, mine = (high, -high) if side < 0 else (low, low)
            (asked,) = ((low[places] < 0) & (high[places] > 0)).nonzero(as_tuple=True)
            gain = WORTH * (high - low)[places]
            for some in torch.split(asked, TOGETHER):
                if deadline.over:
                    break
                least = layer.least(some, side, (mine[places] + gain)[some])
                at[places[some]] = side * least.maximum(mine[places[some]])
        return low.reshape(shape), high.maximum(low).reshape(shape)

    return intervals(network.exact, region, tighten)


@dataclass(frozen=True)
class _Layer:
    """A node that ReLUs read and the network before it.

    Args:
        problem, quick: of the image.
        ranges: of the nodes before it, in which the entries of the problem are open.
        number: of the node among those that ReLUs read, >= 1.
        steps: gradient steps for the slopes.
        splits: how often the part with the lowest bound is split for each question.
        deadline: after it nothing is searched or proven.
    """

    problem: Problem
    ranges: Ranges
    quick: Reduced
    number: int
    steps: int
    splits: int
    deadline: Deadline

    def least(self, asked: Tensor, side: float, wanted: Tensor) -> Tensor:
        """Return proven lower bounds of side times open entries asked [q] of the node, float64; -inf where the search
        finds none above those wanted [q], or when the deadline passes."""
        inside = self._inside(asked, side)
        parts, bounds = self._parts(inside, wanted)
        every = torch.full_like(bounds, torch.inf)[: len(asked)]
        good = every.scatter_reduce(0, parts.target, bounds, "amin") > wanted
        least = torch.where(good, torch.inf, -torch.inf).double()
        (chosen,) = good[parts.target].nonzero(as_tuple=True)
        for some in torch.split(chosen, TOGETHER):
            if self.deadline.over:
                return torch.full_like(least, -torch.inf)
            few = parts.select(some)
            least = least.scatter_reduce(0, few.target, inside.proven(few)[0], "amin")
        return least

    def _parts(self, inside: Problem, wanted: Tensor) -> tuple[Domains, Tensor]:
        """Return parts of the region for each function, and bounds that prove nothing, [D]."""
        size = len(wanted)
        high, low = (inside.entries.gather(dict(enumerate(v))) for v in (inside.ranges.upper, inside.ranges.lower))
        value = (high > -low).float().repeat(size, 1)
        functions = torch.arange(size, device=wanted.device)
        parts = Domains(functions, wanted, torch.zeros_like(value, dtype=torch.int8), value)
        parts = inside.searched(parts, self.steps, torch.inf, deadline=self.deadline)
        bounds = inside.looked(parts)[0].bound
        for _ in range(self.splits):
            order = bounds.argsort()
            first = torch.full_like(functions, len(parts)).scatter_reduce(
                0, parts.target[order], torch.arange(len(parts), device=order.device), "amin"
            )
            worst = order[first]
            worst = worst[(bounds[worst] <= 0) & parts.unsure[worst].any(1)]
            if not len(worst) or self.deadline.over:
                break
            halves = split(inside, parts.select(worst), CANDIDATES)
            halves = inside.searched(halves, self.steps // 2, torch.inf, deadline=self.deadline)
            found = inside.looked(halves)[0].bound
            stay = torch.ones(len(parts), dtype=torch.bool, device=worst.device).index_fill(0, worst, False)
            parts, bounds = joined([parts.select(stay.nonzero().squeeze(1)), halves]), torch.cat([bounds[stay], found])
        return parts, bounds

    def _inside(self, asked: Tensor, side: float) -> Problem:
        """Return the problem whose functions are side times these entries."""
        node = list(self.problem.entries.places)[self.number]
        graph = Graph(self.problem.network.exact.nodes[: node + 1])
        place, shape = self.problem.entries.places[node][asked], torch.Size(graph.nodes[-1].shape)
        rows = self.problem.rows.new_zeros(len(place), shape.numel()).scatter_(1, place[:, None], side)
        functions = (side * of[self.number - 1][asked] for of in (self.quick.weights, self.quick.biases))
        return Problem(
            Network(graph, graph), self.problem.region, self.ranges, rows.reshape(-1, *shape),
            self.problem.entries.before(self.number), self.quick.before(self.number, *functions),
        )  # fmt: skip


def _opened(entries: Entries, ranges: Ranges) -> Ranges:
    """Return ranges in which the signs of the entries are open."""
    lower, upper = list(ranges.lower), list(ranges.upper)
    for at, place in entries.places.items():
        low, high = lower[at].flatten(1).clone(), upper[at].flatten(1).clone()
        low[:, place], high[:, place] = low[:, place].clamp_max(-SMALL), high[:, place].clamp_min(SMALL)
        lower[at], upper[at] = low.reshape(lower[at].shape), high.reshape(upper[at].shape)
    return Ranges(lower, upper, ranges.slack)

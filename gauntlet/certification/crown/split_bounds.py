"""Bounds on parts of a region with the signs of ReLU inputs fixed (beta-CROWN; Wang et al. 2021, arXiv 2103.06624)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gauntlet.certification.crown.domains import Domains, Entries, Fields, lines, sloped
from gauntlet.certification.crown.graph import Relu
from gauntlet.certification.crown.ibp import Ranges
from gauntlet.certification.crown.input_region import Region
from gauntlet.certification.crown.margin_bounds import Network
from gauntlet.certification.crown.relaxation import Relaxed, reached, relaxed

SLOPE_RATE, WEIGHT_RATE = 0.1, 0.05
DECAY = 0.98
MOMENTS = (0.9, 0.999)
"""Adam's step sizes, their factor after each step, and its averages."""

FULL = 0.8
"""Share of the domains at work below which those that are done leave the tensors."""


@dataclass(frozen=True)
class Problem:
    """Linear functions of the scores of one image that are to be bounded on its region.

    Args:
        network: the network.
        region, ranges: of the image, float64.
        rows: the functions, float64 [T, K].
        entries: whose signs are open on the region.
    """

    network: Network
    region: Region
    ranges: Ranges
    rows: Tensor
    entries: Entries

    def slack(self, dtype: torch.dtype) -> list[Tensor | None]:
        """Return that of all nodes, [1, *shape]."""
        return [None if v is None else v.to(dtype) for v in self.ranges.slack]

    def passed(self, domains: Domains, dtype: torch.dtype) -> Relaxed:
        """Return linear functions of the image below those of the domains, by the slopes and weights that these have.

        Where an input z of a ReLU has the sign s on a domain and a weight w >= 0, the function f is at least f - w s z.
        """
        graph = self.network.exact if dtype == torch.float64 else self.network.quick
        found = lines(self.entries, domains, self.ranges, dtype)
        multipliers = self.entries.scatter(-domains.sign * domains.weight.to(dtype))
        return relaxed(graph, self.rows[domains.target].to(dtype), found, self.slack(dtype), multipliers)

    def proven(self, domains: Domains) -> tuple[Tensor, Tensor]:
        """Return lower bounds float64 [D] on the domains, whatever their slopes and weights, and the images where the
        linear functions behind them are least, [D, C, H, W]."""
        passed = self.passed(domains, torch.float64)
        least, corner = self.region.lowest(passed.image)
        return passed.constant + least, corner

    def quick(self, domains: Domains) -> Tensor:
        """Return the same bounds in float32, which prove nothing."""
        passed = self.passed(domains, torch.float32)
        return passed.constant + self.region.to(torch.float32).least(passed.image)

    def above(self, passed: Relaxed) -> Fields:
        """Return, for each node that ReLUs read, the coefficients of their outputs."""
        found: Fields = {}
        for at, node in enumerate(self.network.exact.nodes):
            if isinstance(node.op, Relu) and at in passed.above:
                source = node.inputs[0]
                found[source] = found[source] + passed.above[at] if source in found else passed.above[at]
        return found

    def searched(self, domains: Domains, steps: int, enough: float, pace: Tensor | None = None) -> Domains:
        """Return the domains with the best slopes and weights that so many steps of Adam find, in float32.

        One whose bound exceeds `enough` takes no more steps. No domain sees another.

        Args:
            pace: factors of the step sizes, float32 [D]; None: one.
        """
        found = _Search(self, domains, torch.ones(len(domains)) if pace is None else pace)
        for step in range(steps + 1):
            bounds = found.bounded()
            stay = (bounds <= enough).nonzero().squeeze(1)
            if step == steps or not len(stay):
                break
            found.climb(step)
            if len(stay) < FULL * len(bounds):
                found.narrow(stay)
        return replace(domains, slope=found.best_slope, weight=found.best_weight)


class _Search:
    """Slopes and weights on their way up, and the best so far of each domain."""

    def __init__(self, problem: Problem, domains: Domains, pace: Tensor) -> None:
        self.problem, self.entries = problem, problem.entries
        self.region, self.slack = problem.region.to(torch.float32), problem.slack(torch.float32)
        self.at = torch.arange(len(domains), device=domains.target.device)
        self.rows, self.unsure, self.sign = problem.rows[domains.target].float(), domains.unsure, domains.sign.float()
        self.between = lines(self.entries, domains, problem.ranges, torch.float32)
        self.slope, self.weight = domains.slope.clone(), domains.weight.clone()
        self.best_slope, self.best_weight = domains.slope.clone(), domains.weight.clone()
        self.best = torch.full((len(domains),), -torch.inf, device=domains.target.device)
        self.moments = [torch.zeros_like(domains.slope) for _ in range(4)]
        self.pace = pace.to(domains.slope)[:, None]

    def bounded(self) -> Tensor:
        """Return the bounds where the search stands."""
        self.lines = sloped(self.entries, self.between, self.unsure, self.slope)
        multipliers = self.entries.scatter(-self.sign * self.weight)
        self.passed = relaxed(self.problem.network.quick, self.rows, self.lines, self.slack, multipliers)
        least, self.corner = self.region.lowest(self.passed.image)
        bounds = self.passed.constant + least
        better = (bounds > self.best[self.at]).nonzero().squeeze(1)
        where = self.at[better]
        self.best[where] = bounds[better]
        self.best_slope[where], self.best_weight[where] = self.slope[better], self.weight[better]
        return bounds

    def climb(self, step: int) -> None:
        """Take one step of Adam from there; step counts from 0."""
        values = reached(self.problem.network.quick, self.passed, self.corner, self.lines, self.slack)
        z = self.entries.gather(values)
        above = self.entries.gather(self.problem.above(self.passed))
        rate = self.pace * DECAY**step
        moved = self._moved(above.clamp_min(0) * z * self.unsure, self.moments[:2], step)
        self.slope = (self.slope + SLOPE_RATE * rate * moved).clamp(0, 1)
        moved = self._moved(-self.sign * z, self.moments[2:], step)
        self.weight = (self.weight + WEIGHT_RATE * rate * moved).clamp_min(0)

    def _moved(self, gradient: Tensor, moments: list[Tensor], step: int) -> Tensor:
        (first, second), (early, late) = moments, MOMENTS
        first.mul_(early).add_(gradient, alpha=1 - early)
        second.mul_(late).addcmul_(gradient, gradient, value=1 - late)
        mean, square = first / (1 - early ** (step + 1)), second / (1 - late ** (step + 1))
        return mean / (square.sqrt() + 1e-12)

    def narrow(self, stay: Tensor) -> None:
        """Go on with some of the domains at work."""
        self.at, self.rows, self.unsure, self.sign = (v[stay] for v in (self.at, self.rows, self.unsure, self.sign))
        self.slope, self.weight, self.pace = self.slope[stay], self.weight[stay], self.pace[stay]
        self.between = {at: line.select(stay) for at, line in self.between.items()}
        self.moments = [v[stay] for v in self.moments]

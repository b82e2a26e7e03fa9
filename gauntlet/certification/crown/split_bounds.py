"""Bounds on parts of a region with the signs of ReLU inputs fixed (beta-CROWN; Wang et al. 2021, arXiv 2103.06624)."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gauntlet.certification.crown.deadline import NEVER, Deadline
from gauntlet.certification.crown.domains import Domains, Entries
from gauntlet.certification.crown.ibp import Ranges
from gauntlet.certification.crown.input_region import Region
from gauntlet.certification.crown.margin_bounds import Network
from gauntlet.certification.crown.reduced import Reduced
from gauntlet.certification.crown.relaxation import Lines, Taken
from gauntlet.certification.crown.whole_graph import WholeGraph

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
        given: the reduced network; None: it is made.
    """

    network: Network
    region: Region
    ranges: Ranges
    rows: Tensor
    entries: Entries
    given: Reduced | None = None

    @cached_property
    def exact(self) -> WholeGraph:
        """Return what proves."""
        return WholeGraph(self.network.exact, self.region, self.ranges, self.rows, self.entries)

    @cached_property
    def quick(self) -> Reduced | WholeGraph:
        """Return what searches, in float32."""
        reduced = self.given or Reduced.of(self.network.exact, self.region, self.ranges, self.entries, self.rows)
        if reduced is not None:
            return reduced
        region, ranges = self.region.to(torch.float32), self.ranges.to(torch.float32)
        return WholeGraph(self.network.quick, region, ranges, self.rows.float(), self.entries)

    @cached_property
    def chords(self) -> tuple[Tensor, Tensor]:
        """Return slope and constant of the upper lines of the entries on the region, float64 [U]."""
        low, high = (
            self.entries.gather(dict(enumerate(side)))[0] for side in (self.ranges.lower, self.ranges.upper)
        )  # fmt: skip
        slope = high / (high - low).clamp_min(1e-30)
        return slope, -slope * low

    def lines(self, domains: Domains, dtype: torch.dtype) -> Lines:
        """Return the lines of the entries' ReLUs on each part, [D, U]."""
        unsure, on = domains.unsure, (domains.sign > 0).to(dtype)
        upper, constant = (v.to(dtype) for v in self.chords)
        lower = torch.where(unsure, domains.value.to(dtype), on)
        return Lines(lower, torch.where(unsure, upper, on), torch.where(unsure, constant, 0.0), unsure)

    def proven(self, domains: Domains) -> tuple[Tensor, Tensor]:
        """Return lower bounds float64 [D] on the domains, whatever their values, and the images where the
        linear functions behind them are least, [D, C, H, W].

        Where an input z of a ReLU has the sign s on a domain and a weight w >= 0, the function f is at least f - w s z.
        """
        multipliers = -domains.sign * domains.value.double()
        taken = self.exact.taken(domains.target, self.lines(domains, torch.float64), multipliers, False)
        return taken.bound, taken.corner

    def looked(self, domains: Domains) -> tuple[Taken, Lines]:
        """Return such bounds in float32, which prove nothing, and the lines behind them."""
        lines = self.lines(domains, torch.float32)
        return self.quick.taken(domains.target, lines, -domains.sign * domains.value), lines

    def excess(self, domains: Domains) -> float:
        """Return by how much such bounds exceed proven ones at most, >= 0: rounding, above all of the network."""
        return float((self.looked(domains)[0].bound - self.proven(domains)[0]).amax().clamp_min(0))

    def searched(
        self, domains: Domains, steps: int, enough: float, pace: Tensor | None = None, deadline: Deadline = NEVER
    ) -> Domains:
        """Return the domains with the best slopes and multipliers that so many steps of Adam find, in float32.

        One whose bound exceeds `enough` takes no more steps. No domain sees another.

        Args:
            pace: factors of the step sizes, float32 [D]; None: one.
            deadline: after it no step is begun.
        """
        found = _Search(self, domains, torch.ones(len(domains)) if pace is None else pace)
        for step in range(steps + 1):
            bounds = found.bounded()
            stay = (bounds <= enough).nonzero().squeeze(1)
            if step == steps or not len(stay) or deadline.over:
                break
            found.climb(step)
            if len(stay) < FULL * len(bounds):
                found.narrow(stay)
        return replace(domains, value=found.best_value)


class _Search:
    """Slopes and multipliers on their way up, and the best so far of each domain."""

    def __init__(self, problem: Problem, domains: Domains, pace: Tensor) -> None:
        self.quick, self.target = problem.quick, domains.target
        self.at = torch.arange(len(domains), device=domains.target.device)
        self.lines, self.unsure = problem.lines(domains, torch.float32), domains.unsure
        self.open, self.against = self.unsure.float(), -domains.sign.float()
        self.on = (domains.sign > 0).float()
        self.most = torch.where(self.unsure, 1.0, torch.inf)
        self.rate = torch.where(self.unsure, SLOPE_RATE, WEIGHT_RATE) * pace.to(domains.value)[:, None]
        self.value, self.best_value = domains.value.clone(), domains.value.clone()
        self.best = torch.full((len(domains),), -torch.inf, device=domains.target.device)
        self.first, self.second = torch.zeros_like(self.value), torch.zeros_like(self.value)

    def bounded(self) -> Tensor:
        """Return the bounds where the search stands."""
        self.taken = self.quick.taken(self.target, self.lines, self.against * self.value)
        bounds = self.taken.bound
        better = (bounds > self.best[self.at]).nonzero().squeeze(1)
        where = self.at[better]
        self.best[where], self.best_value[where] = bounds[better], self.value[better]
        return bounds

    def climb(self, step: int) -> None:
        """Take one step of Adam from there; step counts from 0."""
        z, (early, late) = self.quick.values(self.taken, self.lines), MOMENTS
        gradient = torch.addcmul(self.against, self.taken.above.clamp_min(0), self.open).mul_(z)
        self.first.lerp_(gradient, 1 - early)
        self.second.mul_(late).addcmul_(gradient, gradient, value=1 - late)
        size = (self.second / (1 - late ** (step + 1))).sqrt_().add_(1e-12)
        moved = (self.first * self.rate).mul_(DECAY**step / (1 - early ** (step + 1))).div_(size)
        self.value = moved.add_(self.value).clamp_min_(0).minimum(self.most)
        self.lines = replace(self.lines, lower=torch.addcmul(self.on, self.open, self.value))

    def narrow(self, stay: Tensor) -> None:
        """Go on with some of the domains at work."""
        for name in ("at", "target", "unsure", "open", "against", "on", "most", "rate", "value", "first", "second"):
            setattr(self, name, getattr(self, name)[stay])
        self.lines = self.lines.select(stay)

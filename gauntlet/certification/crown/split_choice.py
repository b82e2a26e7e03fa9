"""Which sign to fix next: candidates by what they loosen, the best of them by the bounds of its halves."""

import torch
from torch import Tensor

from gauntlet.certification.crown.domains import Domains, joined, lines
from gauntlet.certification.crown.relaxation import reached
from gauntlet.certification.crown.split_bounds import Problem

WIDTH = 0.1
"""Weight of the largest error that a relaxation can make beside the one that it makes at the least point."""

LESS = 0.1
"""Weight of the better half beside the worse one."""


def split(problem: Problem, domains: Domains, candidates: int) -> Domains:
    """Return both halves of each domain; of one without an open sign, itself.

    Filtered smart branching (De Palma et al. 2021, arXiv 2104.06718): of the entries with the best scores, the one that
    leaves the largest bounds with the slopes and weights of the domain.

    Args:
        candidates: entries that are tried, >= 1.
    """
    able = domains.unsure.any(1)
    rest, domains = domains.select((~able).nonzero().squeeze(1)), domains.select(able.nonzero().squeeze(1))
    if not len(domains):
        return rest
    score, above = scores(problem, domains)
    tried = score.topk(min(candidates, score.shape[1]), 1)
    if tried.indices.shape[1] > 1:
        worth = torch.stack([_worth(problem, halves(domains, entry, above)) for entry in tried.indices.T], 1)
        best = worth.masked_fill(tried.values < 0, -torch.inf).argmax(1, keepdim=True)
        chosen = tried.indices.gather(1, best).squeeze(1)
    else:
        chosen = tried.indices[:, 0]
    return joined([rest, *halves(domains, chosen, above)])


def halves(domains: Domains, entry: Tensor, above: Tensor) -> tuple[Domains, Domains]:
    """Return both halves of each domain by an entry [D] of open sign; above: coefficients of the outputs, [D, U].

    Where the lower line a z was used, the weights make of the new line of a half the old one, so that its bound is the
    old one to begin with; where the upper line was used, the new one is tighter.
    """
    pick = entry[:, None]
    used, slope = above.gather(1, pick).squeeze(1).clamp_min(0), domains.slope.gather(1, pick).squeeze(1)
    return domains.fixed(entry, 1, used * (1 - slope)), domains.fixed(entry, -1, used * slope)


def _worth(problem: Problem, pair: tuple[Domains, Domains]) -> Tensor:
    """Return how good it is to have these halves, [D], by their bounds up to zero."""
    first, second = (problem.quick(half).clamp_max(0) for half in pair)
    return first.minimum(second) + LESS * first.maximum(second)


def scores(problem: Problem, domains: Domains) -> tuple[Tensor, Tensor]:
    """Return how much the relaxation of each entry takes from the bounds, [D, U] >= 0 and -1 where its sign is not
    open, and the coefficients of their outputs, [D, U].

    The distance of the relaxed output from the true one at the point where the bound is taken, and a part of the
    largest distance (the intercept, as in the scores of Bunel et al. 2020), times the coefficient of the output.
    """
    entries, dtype = problem.entries, torch.float32
    passed = problem.passed(domains, dtype)
    _, corner = problem.region.to(dtype).lowest(passed.image)
    found = lines(entries, domains, problem.ranges, dtype)
    z = entries.gather(reached(problem.network.quick, passed, corner, found, problem.slack(dtype)))
    above = entries.gather(problem.above(passed))
    low, high = domains.lower.float(), domains.upper.float()
    slope = high / (high - low).clamp_min(1e-30)
    over, under = slope * (z - low) - z.clamp_min(0), z.clamp_min(0) - domains.slope * z
    gap = torch.where(above > 0, above * under, -above * over).clamp_min(0)
    return torch.where(domains.unsure, gap - WIDTH * above.abs() * slope * low, -1.0), above

"""Which sign to fix next: candidates by what they loosen, the best of them by the bounds of its halves."""

import torch
from torch import Tensor

from gauntlet.certification.crown.domains import Domains, joined
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
        pairs = [half for entry in tried.indices.T for half in halves(domains, entry, above)]
        worth = _worth(problem, joined(pairs), len(domains)).T
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
    used, slope = above.gather(1, pick).squeeze(1).clamp_min(0), domains.value.gather(1, pick).squeeze(1)
    return domains.fixed(entry, 1, used * (1 - slope)), domains.fixed(entry, -1, used * slope)


def _worth(problem: Problem, pairs: Domains, size: int) -> Tensor:
    """Return how good it is to have these halves, [candidates, D], by their bounds up to zero; of each candidate the
    first halves of all D domains, then the second ones."""
    bounds = problem.looked(pairs)[0].bound.clamp_max(0)
    first, second = bounds.reshape(-1, 2, size).unbind(1)
    return first.minimum(second) + LESS * first.maximum(second)


def scores(problem: Problem, domains: Domains) -> tuple[Tensor, Tensor]:
    """Return how much the relaxation of each entry takes from the bounds, [D, U] >= 0 and -1 where its sign is not
    open, and the coefficients of their outputs, [D, U].

    The distance of the relaxed output from the true one at the point where the bound is taken, and a part of the
    largest distance (the intercept, as in the scores of Bunel et al. 2020), times the coefficient of the output.
    """
    taken, lines = problem.looked(domains)
    z, above = problem.quick.values(taken, lines), taken.above
    chord, constant = (v.float() for v in problem.chords)
    over, under = chord * z + constant - z.clamp_min(0), z.clamp_min(0) - domains.value * z
    gap = torch.where(above > 0, above * under, -above * over).clamp_min(0)
    return torch.where(domains.unsure, gap + WIDTH * above.abs() * constant, -1.0), above

"""Optimized slopes of the lower lines of ReLUs (alpha-CROWN; Xu et al. 2021, arXiv 2011.13824)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.crown.crown import Questions, Slopes, lower_bounds
from gauntlet.certification.crown.graph import Graph, Relu
from gauntlet.certification.crown.ibp import Ranges
from gauntlet.certification.crown.input_region import Region

RATE = 0.1
DECAY = 0.98
MOMENTS = (0.9, 0.999)
"""Adam's step size, its factor after each step, and its averages."""


def optimized(graph: Graph, region: Region, ranges: Ranges, questions: Questions, steps: int) -> Slopes:
    """Return the best slopes that `steps` steps of Adam find for each question by itself, from those of CROWN.

    Nothing is random and no question sees another, so the answer does not depend on the batch. Any slopes in [0, 1] are
    sound: the search may run in float32 where the proof then takes float64.

    Args:
        graph, region, ranges, questions: in one dtype.
        steps: gradient steps, >= 1.

    Returns:
        ReLU node -> slopes [Q, *shape].
    """
    owner, rows = questions.owner, questions.rows
    assert isinstance(rows, Tensor)
    current = _starts(graph, ranges, questions)
    state = {at: _Adam(torch.zeros_like(v), torch.zeros_like(v)) for at, v in current.items()}
    kept, best = dict(current), torch.full((len(owner),), -torch.inf, dtype=rows.dtype, device=owner.device)
    for step in range(steps + 1):
        leaves = {at: v.detach().requires_grad_(step < steps) for at, v in current.items()}
        with torch.set_grad_enabled(step < steps):
            value = lower_bounds(graph, region, ranges, questions, leaves)
            total = value.sum()
        better = value.detach() > best
        best = torch.where(better, value.detach(), best)
        kept = {at: torch.where(_as(better, v), v.detach(), kept[at]) for at, v in leaves.items()}
        if step == steps or not leaves:
            break
        gradients = torch.autograd.grad(total, list(leaves.values()))
        for (at, slope), gradient in zip(leaves.items(), gradients, strict=True):
            current[at] = state[at].climb(slope.detach(), gradient, step)
    return kept


@dataclass
class _Adam:
    """Running averages of a gradient and of its square (Kingma and Ba 2015, arXiv 1412.6980)."""

    first: Tensor
    second: Tensor

    def climb(self, slope: Tensor, gradient: Tensor, step: int) -> Tensor:
        """Return the slopes after one step uphill, in [0, 1]; step counts from 0."""
        early, late = MOMENTS
        self.first = early * self.first + (1 - early) * gradient
        self.second = late * self.second + (1 - late) * gradient.square()
        mean, square = self.first / (1 - early ** (step + 1)), self.second / (1 - late ** (step + 1))
        return (slope + RATE * DECAY**step * mean / (square.sqrt() + 1e-12)).clamp(0, 1)


def _starts(graph: Graph, ranges: Ranges, questions: Questions) -> dict[int, Tensor]:
    """Return the slopes of CROWN for the ReLUs that the questions depend on."""
    needed = {questions.node}
    for at in range(questions.node, -1, -1):
        if at in needed:
            needed |= set(graph.nodes[at].inputs)
    starts = {}
    for at in sorted(needed):
        if isinstance(graph.nodes[at].op, Relu):
            source = graph.nodes[at].inputs[0]
            starts[at] = (ranges.upper[source] > -ranges.lower[source]).to(ranges.upper[source].dtype)[questions.owner]
    return starts


def _as(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.dim() - 1))

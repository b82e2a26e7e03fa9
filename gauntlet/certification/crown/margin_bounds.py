"""From a network and images to proven margins: cheap bounds first, dearer ones for what stays open."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.crown.alpha_crown import optimized
from gauntlet.certification.crown.centred import trusted
from gauntlet.certification.crown.crown import Questions, lower_bounds, pieces
from gauntlet.certification.crown.deadline import NEVER, Deadline
from gauntlet.certification.crown.entry_bounds import EntryBounds
from gauntlet.certification.crown.graph import Graph
from gauntlet.certification.crown.ibp import Ranges, Tighten, intervals
from gauntlet.certification.crown.input_region import Region

METHODS = ("ibp", "crown_ibp", "crown", "alpha_crown")
"""From the cheapest to the tightest."""


@dataclass(frozen=True)
class Effort:
    """What a proof may take.

    Args:
        method: the last of METHODS to try.
        steps: of the search for slopes of the last layers, alpha_crown only.
        inner_steps: the same for the bounds of the layers before; 0: leave them as CROWN has them.
        memory: MiB for the tensors of one piece of work.
        least: what all margins of an image must exceed; below it, dearer methods are tried.
    """

    method: str
    steps: int
    inner_steps: int
    memory: float
    least: float = 0.0


@dataclass(frozen=True)
class Proof:
    """Attributes:
    margins: proven lower bounds of score[predicted] - score[other], float64 [B, K - 1]; classes in order.
    method: position in METHODS of what decided or tried last, int64 [B].
    open: images that nothing proved, int64 [b], in order.
    ranges: bounds of all nodes on the regions of these.
    """

    margins: Tensor
    method: Tensor
    open: Tensor
    ranges: Ranges


@dataclass(frozen=True)
class Network:
    """A graph in float64, for proofs, and in float32, for the search."""

    exact: Graph
    quick: Graph

    @classmethod
    def of(cls, graph: Graph) -> "Network":
        return cls(graph, graph.to(torch.float32))


def prove(network: Network, region: Region, predicted: Tensor, effort: Effort) -> Proof:
    """Return the margins of the predicted class over all others on the regions, by one method after another.

    An image leaves when all its margins exceed `effort.least`. Later methods never lower a margin: for every image that
    stays, ibp <= crown_ibp <= crown <= alpha_crown holds by construction.

    Args:
        network: the network.
        region: float64, for B images.
        predicted: classes int64 [B].
        effort: how far to go.
    """
    graph, images = network.exact, len(predicted)
    rows = comparisons(predicted, graph.classes)
    margins = torch.full(rows.shape[:2], -torch.inf, dtype=torch.float64, device=predicted.device)
    method, still = torch.zeros_like(predicted), torch.arange(images, device=predicted.device)
    ranges = intervals(graph, region)
    for number, name in enumerate(METHODS[: METHODS.index(effort.method) + 1]):
        if not len(still):
            break
        part = region.select(still)
        inner = {"crown": 0, "alpha_crown": effort.inner_steps}.get(name, 0)
        if name == "crown" or inner:
            ranges = tightened(network, part, ranges, inner, effort.memory)
        ask = Asked(network, part, ranges, len(graph.nodes) - 1, effort.memory)
        steps = effort.steps if name == "alpha_crown" else 0
        margins[still] = _improved(ask, margins[still], rows[still], steps, name == "ibp", effort.least)
        method[still] = number
        stay = (margins[still] <= effort.least).any(1).nonzero().squeeze(1)
        still, ranges = still[stay], ranges.select(stay)
    return Proof(margins, method, still, ranges)


def tightened(
    network: Network, region: Region, known: Ranges, steps: int, memory: float, deadline: Deadline = NEVER
) -> Ranges:
    """Return the bounds of all nodes, no looser than known, by CROWN and so many steps for the slopes of each.

    What steps have not bounded when the deadline passes stays as it is.
    """
    return intervals(network.exact, region, _by_crown(network, region, known, steps, memory, deadline))


@dataclass(frozen=True)
class Asked:
    """The node whose linear functions are to be bounded, and all that is known."""

    network: Network
    region: Region
    ranges: Ranges
    node: int
    memory: float
    deadline: Deadline = NEVER

    def answer(self, owner: Tensor, rows: Callable[[slice], Tensor], steps: int = 0, boxed: bool = False) -> Tensor:
        """Return the lower bounds float64 [Q] of functions of the images owner [Q]; rows gives those of a slice of
        them. Those that are not bounded when the deadline passes are -inf."""
        found = torch.full((len(owner),), -torch.inf, dtype=torch.float64, device=owner.device)
        held = 1 + 4 * (steps > 0)  # the search keeps what it differentiates
        for piece in pieces(len(owner), self.network.exact, self.memory / held):
            if self.deadline.over:
                break
            asked = Questions(self.node, owner[piece], rows(piece))
            slopes = None
            if steps:
                quick = Questions(self.node, asked.owner, rows(piece).float())
                region, ranges = self.region.to(torch.float32), self.ranges.to(torch.float32)
                searched = optimized(self.network.quick, region, ranges, quick, steps)
                slopes = {at: slope.double() for at, slope in searched.items()}
            found[piece] = lower_bounds(self.network.exact, self.region, self.ranges, asked, slopes, boxed)
        return found


def _improved(ask: Asked, margins: Tensor, rows: Tensor, steps: int, boxed: bool, least: float) -> Tensor:
    """Return the margins [b, K - 1] of the open images after one more method; proven ones are left as they are."""
    owner, which = (margins <= least).nonzero(as_tuple=True)
    found = ask.answer(owner, lambda piece: rows[owner[piece], which[piece]], steps, boxed)
    better = margins.clone()
    better[owner, which] = margins[owner, which].maximum(found)
    return better


def _by_crown(
    network: Network, region: Region, known: Ranges, steps: int, memory: float, deadline: Deadline
) -> Tighten:
    """Tightens what a ReLU reads by linear bounds passed back to the image, for entries whose sign is open.

    The first affine layers are left alone: there interval bounds are as good.
    """
    behind, exact = network.exact.behind_relu(), network.exact
    graph = network.quick if trusted(region.centre.device) == torch.float32 else exact
    entries = EntryBounds(exact, graph, region, memory)

    def tighten(ranges: Ranges, node: int) -> tuple[Tensor, Tensor]:
        lower, upper = ranges.lower[node].maximum(known.lower[node]), ranges.upper[node].minimum(known.upper[node])
        if not behind[node]:
            return lower, upper.maximum(lower)
        if not steps:
            lower, upper = entries.tightened(ranges, node, lower, upper)
            return lower, upper.maximum(lower)
        shape, curved = lower.shape[1:], node in exact.curved()
        lower, upper = lower.flatten(1), upper.flatten(1)
        ask = Asked(network, region, ranges, node, memory, deadline)
        for side in (-1.0, 1.0):  # from above first: where the ReLU is zero nothing else matters
            owner, entry = (upper > lower if curved else (lower < 0) & (upper > 0)).nonzero(as_tuple=True)
            if len(owner):
                least = side * ask.answer(owner, _one_hot(entry, shape, side), steps)
                bound, tighter = (upper, torch.minimum) if side < 0 else (lower, torch.maximum)
                bound[owner, entry] = tighter(bound[owner, entry], least)
        return lower.reshape(-1, *shape), upper.reshape(-1, *shape).maximum(lower.reshape(-1, *shape))

    return tighten


def _one_hot(entry: Tensor, shape: torch.Size, value: float) -> Callable[[slice], Tensor]:
    """Return what gives `value` times some of these entries of a node."""

    def rows(at: slice) -> Tensor:
        found = torch.zeros(len(entry[at]), shape.numel(), dtype=torch.float64, device=entry.device)
        return found.scatter_(1, entry[at, None], value).reshape(-1, *shape)

    return rows


def comparisons(predicted: Tensor, classes: int) -> Tensor:
    """e_predicted - e_other for all other classes in order, [B, K - 1, K]."""
    eye = torch.eye(classes, dtype=torch.float64, device=predicted.device)
    own, others = eye[predicted], torch.arange(classes - 1, device=predicted.device)[None]
    return own[:, None] - eye[others + (others >= predicted[:, None])]

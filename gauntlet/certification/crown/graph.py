"""A network as a short list of affine layers, ReLUs, curves, joint operations and sums."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import Affine
from gauntlet.certification.crown.curves import Curve
from gauntlet.certification.crown.joint import Joint


@dataclass(frozen=True)
class Input:
    """The image."""


@dataclass(frozen=True)
class Relu:
    """max(x, 0), exact in every arithmetic."""


@dataclass(frozen=True)
class Sum:
    """x + z."""


@dataclass(frozen=True)
class Node:
    """One step of a network.

    Args:
        op: what it computes.
        inputs: positions in the graph of what it reads, all smaller than its own.
        shape: of its output for one image.
        name: of the layer, for messages.
    """

    op: Input | Relu | Curve | Joint | Sum | Affine
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    name: str


@dataclass(frozen=True)
class Graph:
    """A network from an image, the first node, to class scores, the last; every node is read by another."""

    nodes: tuple[Node, ...]

    @property
    def classes(self) -> int:
        return self.nodes[-1].shape[0]

    @property
    def widest(self) -> int:
        """Return the most entries of a node."""
        return max(torch.Size(node.shape).numel() for node in self.nodes)

    @property
    def dtype(self) -> torch.dtype:
        """Return that of the weights."""
        weights = (node.op.weight for node in self.nodes if isinstance(node.op, Affine))
        return next((weight.dtype for weight in weights if weight.numel()), torch.float64)

    def rectified(self) -> tuple[int, ...]:
        """Return the nodes that a ReLU reads, in order."""
        return tuple(sorted({node.inputs[0] for node in self.nodes if isinstance(node.op, Relu)}))

    def curved(self) -> tuple[int, ...]:
        """Return the nodes that a curve or a joint operation reads, in order."""
        return tuple(sorted({at for node in self.nodes if isinstance(node.op, Curve | Joint) for at in node.inputs}))

    def behind_relu(self) -> tuple[bool, ...]:
        """For each node, whether there is a ReLU, a curve or a joint operation between it and the image, or it is one.

        With joint operations also whether there are two layers that mix entries, as from pixels to queries: intervals
        of one after the other are looser than those of both.
        """
        behind: list[bool] = []
        mixed: list[int] = []
        most = 1 if any(isinstance(node.op, Joint) for node in self.nodes) else len(self.nodes)
        for node in self.nodes:
            own = isinstance(node.op, Affine) and not node.op.diagonal
            mixed.append(own + max((mixed[i] for i in node.inputs), default=0))
            bent = isinstance(node.op, Relu | Curve | Joint) or mixed[-1] > most
            behind.append(bent or any(behind[i] for i in node.inputs))
        return tuple(behind)

    def to(self, dtype: torch.dtype) -> "Graph":
        """Return the same network with weights of that dtype."""
        return Graph(tuple(replace(n, op=n.op.to(dtype)) if isinstance(n.op, Affine) else n for n in self.nodes))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores [B, K] of images [B, C, H, W] of the dtype of the weights."""
        values: list[Tensor] = []
        for node in self.nodes:
            given = [values[i] for i in node.inputs]
            if isinstance(node.op, Affine):
                values.append(node.op.forward(given[0]) + node.op.offset())
            elif isinstance(node.op, Relu):
                values.append(given[0].clamp_min(0))
            elif isinstance(node.op, Curve):
                values.append(node.op.at(given[0]))
            elif isinstance(node.op, Joint):
                values.append(node.op.at(*given))
            else:
                values.append(given[0] + given[1] if given else x)
        return values[-1]


def pruned(nodes: list[Node], last: int) -> Graph:
    """Return the graph of the nodes that the last one depends on."""
    used = {last}
    for at in range(last, -1, -1):
        if at in used:
            used |= set(nodes[at].inputs)
    place = {old: new for new, old in enumerate(sorted(used))}
    return Graph(tuple(replace(nodes[old], inputs=tuple(place[i] for i in nodes[old].inputs)) for old in place))

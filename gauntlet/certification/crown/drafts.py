"""A call that reads parts of images, and the nodes that it adds to a graph."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import Affine, Reshape, Scale
from gauntlet.certification.crown.curves import Curve
from gauntlet.certification.crown.graph import Node, Sum
from gauntlet.certification.crown.joint import Joint
from gauntlet.certification.crown.layer_parsing import Unsupported, exact
from gauntlet.certification.crown.moves import Move
from gauntlet.certification.crown.products import Product
from gauntlet.certification.crown.softmaxes import Softmax

Shape = tuple[int, ...]

ALIKE = {
    *("clone", "contiguous", "detach", "to", "float", "dropout", "relu", "sigmoid", "tanh", "gelu", "neg"),
    *("mul", "__mul__", "__rmul__", "div", "__truediv__", "add", "__add__", "__radd__", "sub", "__sub__"),
}
"""Functions that, with numbers, do the same to every entry."""


@dataclass(frozen=True)
class Draft:
    """The nodes so far, to which a call adds; label: of the layer that runs, for messages."""

    nodes: list[Node]
    label: str

    def add(self, op: Affine | Curve | Joint | Sum, shape: Shape, *inputs: int) -> int:
        """Return the position of a new node."""
        self.nodes.append(Node(op, inputs, shape, self.label))
        return len(self.nodes) - 1

    def shape(self, place: int) -> Shape:
        return self.nodes[place].shape

    def moved(self, place: int, index: Tensor, after: Shape, constants: Tensor | None = None) -> int:
        """Return the node that has entry index[i] at i, or a constant where that is -1."""
        before = self.shape(place)
        if index.numel() == torch.Size(before).numel() and torch.equal(index, torch.arange(index.numel())):
            op: Affine = Reshape(weight=torch.empty(0), before=before, after=after)
            return place if before == after else self.add(op, after, place)
        bias = None if constants is None else exact(constants).reshape(after)
        op = Move(weight=torch.empty(0), index=index.flatten(), before=before, after=after, bias=bias)
        return self.add(op, after, place)

    def rearranged(self, place: int, change: Callable[[Tensor], Tensor]) -> int:
        """Return the node of what `change`, such as a permutation, makes of one image."""
        shape = self.shape(place)
        index = change(torch.arange(torch.Size(shape).numel()).reshape(shape))
        return self.moved(place, index.flatten(), tuple(index.shape))

    def scaled(self, place: int, factor: float, terms: int = 1) -> int:
        weight = torch.full((), factor, dtype=torch.float64)
        return self.add(Scale(weight=weight, terms=terms), self.shape(place), place)


@dataclass(frozen=True)
class WatchedCall:
    """A call that reads parts of images.

    Args:
        func, name, args, kwargs: of the call.
        place: id of a tensor that depends on the image -> its node.
        results: of the call.
        batch: images.
        displaced: id of a tensor whose first axis is not that of the images -> for each of its entries image times
            size of the node plus position in the node.
    """

    func: Any
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    place: Mapping[int, int]
    results: tuple[Tensor, ...]
    batch: int
    displaced: dict[int, Tensor]

    def given(self, *names: str) -> list[Any]:
        """Return the arguments of these names, in the order of the signature; None where they are not given."""
        found = {**dict(zip(names, self.args, strict=False)), **self.kwargs}
        return [found.get(name) for name in names]

    def node(self, value: Any) -> int | None:
        """Return the node of an argument; None: it is a constant."""
        return self.place.get(id(value)) if isinstance(value, Tensor) else None

    def form(self, result: Tensor) -> Shape:
        """Return the shape of a result for one image; what is merged with the batch stands first."""
        shape = tuple(result.shape)
        return shape[1:] if shape[0] == self.batch else (shape[0] // self.batch, *shape[1:])

    @property
    def shape(self) -> Shape:
        return self.form(self.results[0])

    def merged(self, read: list[Tensor]) -> bool:
        """Return whether another axis of a tensor that is read, or of a result, is merged with that of the images."""
        return any(each.shape[:1] != (self.batch,) for each in (*read, *self.results))

    def check_alike(self, read: list[Tensor]) -> None:
        """Raises Unsupported unless the call does the same to every entry."""
        given = [v for v in flat((*self.args, *self.kwargs.values())) if isinstance(v, Tensor)]
        numbers = all(v.dim() == 0 for v in given if self.node(v) is None)
        alike = numbers and all(each.shape == self.results[0].shape for each in read)
        if not alike or self.name not in ALIKE:
            raise Unsupported(f"{self.name} of images whose axis is merged with another")

    def axis(self, axis: int) -> int:
        """Return an axis of the first result, from the end. Raises Unsupported for that of the images."""
        count = self.results[0].dim()
        if axis % count == 0:
            raise Unsupported(f"{self.name} across images")
        return axis % count - count


def tensors(values: Any) -> tuple[Tensor, ...]:
    """Return what a call gives if it is some tensors, else nothing."""
    many = isinstance(values, list | tuple) and len(values) and all(isinstance(each, Tensor) for each in values)
    return tuple(values) if many else ()


def flat(values: Iterable[Any]) -> Iterator[Any]:
    """Yield values, and those in lists and tuples among them."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from flat(value)
        else:
            yield value


def matrix_product(draft: Draft, x: int, y: int, extra: int = 0) -> int:
    """Return the node of the product of two nodes as matrices."""
    first, second = draft.shape(x), draft.shape(y)
    rest = np.broadcast_shapes(first[:-2], second[:-2])
    x = draft.rearranged(x, lambda where: where.expand(*rest, *first[-2:]))
    y = draft.rearranged(y, lambda where: where.expand(*rest, *second[-2:]))
    op = Product(first[-1], shares=_shares(draft, x), extra=extra)
    return draft.add(op, (*rest, first[-2], second[-1]), x, y)


def _shares(draft: Draft, place: int) -> bool:
    """Return whether the last axis of a node is that of a softmax."""
    node = draft.nodes[place]
    while isinstance(node.op, Reshape) and node.op.before[-1] == node.op.after[-1]:
        node = draft.nodes[node.inputs[0]]
    return isinstance(node.op, Softmax)

"""What the functions of torch that move, join or multiply parts of an image amount to, as nodes of a graph."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import Dense
from gauntlet.certification.crown.composite_parsing import activation, attention, layer_norm, square
from gauntlet.certification.crown.drafts import Draft, WatchedCall, matrix_product
from gauntlet.certification.crown.graph import Sum
from gauntlet.certification.crown.layer_parsing import AFFINE, Unsupported, exact
from gauntlet.certification.crown.products import Times
from gauntlet.certification.crown.softmaxes import Softmax


def _moves(request: WatchedCall, draft: Draft) -> list[int]:
    """Find where each entry of the results comes from by moving numbers in place of pixels."""
    sources: list[int] = []
    starts = [0]

    def numbered(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(numbered(each) for each in value)
        if not isinstance(value, Tensor):
            return value
        if (place := request.node(value)) is None:
            return torch.full(value.shape, -1) if value.is_floating_point() else value
        sources.append(place)
        starts.append(starts[-1] + request.batch * torch.Size(draft.shape(place)).numel())
        if id(value) in request.displaced:
            return starts[-2] + request.displaced[id(value)]
        return torch.arange(starts[-2], starts[-1]).reshape(value.shape)

    args, kwargs = numbered(request.args), {name: numbered(value) for name, value in request.kwargs.items()}
    found = request.func(*args, **kwargs)
    found = (found,) if isinstance(found, Tensor) else tuple(found)
    return [
        _joined(request, draft, where, result, sources, starts)
        for where, result in zip(found, request.results, strict=True)
    ]


def _joined(
    request: WatchedCall, draft: Draft, where: Tensor, result: Tensor, sources: list[int], starts: list[int]
) -> int:
    """Return the node of one result, from the number that stands at each of its entries."""
    if where.shape != result.shape or not result.dim():
        raise Unsupported(f"{request.name} across images")
    read = list(zip(sources, starts[:-1], starts[1:], strict=True))
    images = torch.arange(request.batch).repeat_interleave(where.numel() // request.batch)
    for source, first, last in read:
        own = (where - first) // torch.Size(draft.shape(source)).numel()
        alone = ((where >= first) & (where < last)).all()
        if alone and not torch.equal(own.flatten(), images):  # a later call may put the images first again
            request.displaced[id(result)] = where - first
            return source
    if len(result) % request.batch:
        raise Unsupported(f"{request.name} across images")
    numbers, values = where.reshape(request.batch, -1).cpu(), result.reshape(request.batch, -1)
    constant = numbers < 0
    fixed = torch.where(constant.to(values.device), values, 0.0)
    if not torch.equal(fixed, fixed[:1].expand_as(fixed)):
        raise Unsupported(f"{request.name} with a constant of its own for each image")
    nodes: list[int] = []
    for source, first, last in read:
        size = torch.Size(draft.shape(source)).numel()
        inside = (numbers >= first) & (numbers < last)
        index = torch.where(inside, numbers - first - size * torch.arange(request.batch)[:, None], -1)
        if (inside & ((index < 0) | (index >= size))).any() or not torch.equal(index, index[:1].expand_as(index)):
            raise Unsupported(f"{request.name} across images")
        if inside.any():
            constants = fixed[0] if constant.any() and not nodes else None
            nodes.append(draft.moved(source, index[0], request.form(result), constants))
    if not nodes:
        raise Unsupported(f"{request.name} that leaves nothing of the image")
    total = nodes[0]
    for other in nodes[1:]:
        total = draft.add(Sum(), request.form(result), total, other)
    return total


def _softmax(request: WatchedCall, draft: Draft) -> list[int]:
    value, axis, _, dtype = request.given("input", "dim", "_stacklevel", "dtype")
    source = request.node(value)
    if source is None or axis is None or dtype not in (None, torch.float32):
        raise Unsupported(f"{request.name} without a dimension, or in another type")
    axis = request.axis(axis)
    turned = draft.rearranged(source, lambda where: where.transpose(axis, -1))
    out = draft.add(Softmax(), draft.shape(turned), turned)
    return [draft.rearranged(out, lambda where: where.transpose(axis, -1))]


def _matmul(request: WatchedCall, draft: Draft) -> list[int]:
    left, right = request.args[:2] if len(request.args) > 1 else request.given("input", "other")
    x, y = request.node(left), request.node(right)
    if x is None or y is None:
        return [_by_constant(request, draft, left, right)]
    if min(len(draft.shape(x)), len(draft.shape(y))) < 2:
        raise Unsupported(f"{request.name} of vectors")
    return [matrix_product(draft, x, y)]


def _by_constant(request: WatchedCall, draft: Draft, left: Any, right: Any) -> int:
    """Return the node of the product of a matrix of the image and a constant one."""
    x, y = request.node(left), request.node(right)
    weight = right if y is None else left
    if weight.dim() != 2 or len(request.shape) < (1 if y is None else 2):
        raise Unsupported(f"{request.name} with a constant of {weight.dim()} dimensions")
    if y is None:
        assert x is not None
        matrix = exact(weight).T
        return draft.add(Dense(weight=matrix, terms=matrix.shape[1] + 2), request.shape, x)
    turned = draft.rearranged(y, lambda where: where.transpose(-1, -2))
    matrix = exact(weight)
    wide = (*draft.shape(turned)[:-1], len(matrix))
    out = draft.add(Dense(weight=matrix, terms=matrix.shape[1] + 2), wide, turned)
    return draft.rearranged(out, lambda where: where.transpose(-1, -2))


def _times(request: WatchedCall, draft: Draft) -> list[int]:
    x, y = (request.node(value) for value in request.args[:2])
    assert x is not None
    assert y is not None
    first, second = (draft.rearranged(each, lambda where: where.expand(request.shape)) for each in (x, y))
    return [draft.add(Times(), request.shape, first, second)]


def _difference(request: WatchedCall, draft: Draft) -> list[int]:
    x, y = (request.node(value) for value in request.args[:2])
    if request.kwargs.get("alpha", 1) != 1 or x is None or y is None:
        raise Unsupported(f"{request.name} with alpha")
    first, second = (draft.rearranged(each, lambda where: where.expand(request.shape)) for each in (x, y))
    return [draft.add(Sum(), request.shape, first, draft.scaled(second, -1.0))]


def _sum(request: WatchedCall, draft: Draft) -> list[int]:
    x, y = (request.node(value) for value in request.args[:2])
    if request.kwargs.get("alpha", 1) != 1 or x is None or y is None:
        raise Unsupported(f"{request.name} with alpha")
    first, second = (draft.rearranged(each, lambda where: where.expand(request.shape)) for each in (x, y))
    return [draft.add(Sum(), request.shape, first, second)]


def _mean(request: WatchedCall, draft: Draft) -> list[int]:
    value, axes, _, dtype = request.given("input", "dim", "keepdim", "dtype")
    source = request.node(value)
    if source is None or dtype not in (None, torch.float32):
        raise Unsupported(f"{request.name} in another type")
    count = value.dim()
    axes = {axis % count for axis in ((axes,) if isinstance(axes, int) else axes or range(count))}
    if 0 in axes:
        raise Unsupported(f"{request.name} across images")
    last = [axis - count for axis in sorted(axes)]
    rest = [axis for axis in range(-len(draft.shape(source)), 0) if axis not in last]
    turned = draft.rearranged(source, lambda where: where.permute(*rest, *last).flatten(len(rest)))
    *outer, size = draft.shape(turned)
    each = 1.0 if request.name == "sum" else 1 / size
    weight = torch.full((1, size), each, dtype=torch.float64, device=value.device)
    out = draft.add(Dense(weight=weight, terms=size + 2), (*outer, 1), turned)
    return [draft.rearranged(out, lambda where: where.reshape(request.shape))]


MOVES = {
    *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "flip", "roll"),
    *("__getitem__", "select", "narrow", "chunk", "split", "tensor_split", "unbind", "index_select"),
    *("cat", "concat", "concatenate", "stack", "expand", "expand_as", "broadcast_to", "repeat", "tile"),
    *("repeat_interleave", "flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze"),
}
"""Functions that only put entries elsewhere."""

READERS: dict[str, Callable[[WatchedCall, Draft], list[int]]] = {
    **dict.fromkeys(MOVES, _moves),
    **dict.fromkeys(("softmax",), _softmax),
    **dict.fromkeys(("matmul", "bmm", "__matmul__"), _matmul),
    **dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__"), _times),
    **dict.fromkeys(("sub", "subtract", "__sub__"), _difference),
    **dict.fromkeys(("add", "__add__"), _sum),
    **dict.fromkeys(("mean", "sum"), _mean),
    **dict.fromkeys(("gelu", "silu"), activation),
    **dict.fromkeys(("square", "pow", "__pow__"), square),
    "layer_norm": layer_norm,
    "scaled_dot_product_attention": attention,
}
"""Name of a function -> what adds its nodes and returns those of its results."""


def reader_of(request: WatchedCall, read: list[Tensor]) -> Callable[[WatchedCall, Draft], list[int]] | None:
    """Return what reads a call; None: it is left to the readers of single affine layers.

    Args:
        request: the call.
        read: what of its arguments depends on the image.
    """
    name, results, shape = request.name, request.results, read[0].shape
    if any(id(each) in request.displaced for each in read) and name not in MOVES:
        raise Unsupported(f"{name} across images")
    reader = READERS.get(name)
    if name in MOVES:
        same = len(results) == len(read) == 1 and results[0].numel() == read[0].numel()
        moved = request.merged(read) or any(id(each) in request.displaced for each in read)
        return None if name in AFFINE and same and not moved else reader
    if reader is _mean:
        axes = request.given("input", "dim")[1]
        axes = {axis % len(shape) for axis in ((axes,) if isinstance(axes, int) else axes or ())}
        return None if name in AFFINE and len(shape) == 4 and axes == {2, 3} else reader
    if reader in (_times, _difference, _sum):
        alone = len(read) == 1 or (reader is _sum and read[0].shape == read[1].shape)
        return None if alone else reader
    return reader

"""What the functions of torch do to an image, as affine layers with weights in float64."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import Affine, Convolution, Dense, Pool, Reshape, Scale

Shape = tuple[int, ...]
Steps = list[tuple[Affine, Shape]]
"""Layers one after the other, each with the shape of its output for one image."""

Reader = Callable[["Call"], Steps]


class Unsupported(Exception):
    """A function, or one of its options, that is not affine or not known; the message names it."""


@dataclass(frozen=True)
class Call:
    """One call of a function on a tensor that depends on the image.

    Args:
        name: of the function.
        args, kwargs: as given.
        first: whether that tensor is the first argument.
        before: its shape, with the batch.
        after: shape of the result for one image.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    first: bool
    before: Shape
    after: Shape

    def get(self, name: str, default: Any = None) -> Any:
        """Return the argument of that name."""
        names = ARGUMENTS.get(self.name, ("input", "other"))
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}.get(name, default)

    def read(self) -> Steps:
        """Return what the call amounts to. Raises Unsupported."""
        if self.name not in AFFINE or not (self.first or self.name in EITHER):
            raise Unsupported(self.name)
        return AFFINE[self.name](self)


ARGUMENTS = {
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "linear": ("input", "weight", "bias"),
    "batch_norm": ("input", "mean", "var", "weight", "bias", "training", "momentum", "eps"),
    "avg_pool2d": ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_avg_pool2d": ("input", "output_size"),
    "mean": ("input", "dim", "keepdim"),
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
}


def _linear(call: Call) -> Steps:
    weight, bias = exact(call.get("weight")), call.get("bias")
    op = Dense(weight=weight, bias=None if bias is None else exact(bias), terms=weight.shape[1] + 2)
    return [(op, call.after)]


def _conv2d(call: Call) -> Steps:
    weight, bias, padding = exact(call.get("weight")), call.get("bias"), call.get("padding", 0)
    if isinstance(padding, str):
        if padding != "valid":
            raise Unsupported(f"conv2d with padding={padding!r}")
        padding = 0
    op = Convolution(
        weight=weight,
        bias=None if bias is None else exact(bias).reshape(-1, 1, 1),
        terms=weight[0].numel() + 2,
        inside=pair(call.before[2:]),
        stride=pair(call.get("stride", 1)),
        padding=pair(padding),
        dilation=pair(call.get("dilation", 1)),
        groups=call.get("groups", 1),
    )
    return [(op, call.after)]


def _batch_norm(call: Call) -> Steps:
    if call.get("training") or call.get("mean") is None:
        raise Unsupported("batch norm in training mode")
    form = (-1, *[1] * (len(call.before) - 2))
    mean, scale = exact(call.get("mean")), (exact(call.get("var")) + call.get("eps", 1e-5)).rsqrt()
    if call.get("weight") is not None:
        scale = scale * exact(call.get("weight"))
    shift = exact(call.get("bias")) if call.get("bias") is not None else torch.zeros_like(mean)
    op = Scale(
        weight=scale.reshape(form),
        bias=(shift - mean * scale).reshape(form),
        size=(shift.abs() + (mean * scale).abs()).reshape(form),
        terms=8,
    )
    return [(op, call.after)]


def _avg_pool2d(call: Call) -> Steps:
    kernel, padding = pair(call.get("kernel_size")), pair(call.get("padding", 0))
    if (
        call.get("ceil_mode")
        or call.get("divisor_override")
        or (any(padding) and not call.get("count_include_pad", True))
    ):
        raise Unsupported("average pooling with ceil_mode, divisor_override or without count_include_pad")
    return [(_window(call, kernel, pair(call.get("stride") or kernel), padding), call.after)]


def _adaptive(call: Call) -> Steps:
    size, parts = call.before[2:], call.after[1:]
    if any(s % p for s, p in zip(size, parts, strict=True)):
        raise Unsupported(f"adaptive average pooling of {size[0]}x{size[1]} to {parts[0]}x{parts[1]}")
    kernel = pair([s // p for s, p in zip(size, parts, strict=True)])
    return [(_window(call, kernel, kernel, (0, 0)), call.after)]


def _mean(call: Call) -> Steps:
    dims = call.get("dim")
    dims = {d % len(call.before) for d in ([dims] if isinstance(dims, int) else dims or ())}
    if len(call.before) != 4 or dims != {2, 3}:
        raise Unsupported("a mean over other dimensions than height and width")
    small = (call.before[1], 1, 1)
    steps: Steps = [(_window(call, pair(call.before[2:]), (1, 1), (0, 0)), small)]
    return steps if call.after == small else [*steps, *_between(small, call.after)]


def _window(call: Call, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Pool:
    count = math.prod(kernel)
    weight = torch.full((1, 1, *kernel), 1 / count, dtype=torch.float64)
    return Pool(weight=weight, terms=count + 2, inside=pair(call.before[2:]), stride=stride, padding=padding)


def _reshape(call: Call) -> Steps:
    if math.prod(call.before[1:]) != math.prod(call.after):
        raise Unsupported(f"{call.name} that changes the number of entries")
    return _between(call.before[1:], call.after)


def _between(before: Shape, after: Shape) -> Steps:
    return [(Reshape(weight=torch.empty(0), before=before, after=after), after)]


def _plus(call: Call) -> Steps:
    if call.get("alpha", 1) != 1:
        raise Unsupported("a sum with alpha")
    return _shifted(call, 1.0, _constant(call))


def _minus(call: Call) -> Steps:
    if call.get("alpha", 1) != 1:
        raise Unsupported("a difference with alpha")
    other = _constant(call)
    # Either x - c or c - x; Tensor.__rsub__(x, c) is the latter.
    minuend = call.first != (call.name in ("__rsub__", "rsub"))
    return _shifted(call, 1.0, -other) if minuend else _shifted(call, -1.0, other)


def _times(call: Call) -> Steps:
    return [(Scale(weight=_constant(call), terms=2), call.after)]


def _over(call: Call) -> Steps:
    if not call.first or call.name in ("__rdiv__", "__rtruediv__") or call.get("rounding_mode"):
        raise Unsupported("a division by the image")
    return [(Scale(weight=1 / _constant(call), terms=2), call.after)]


def _negative(call: Call) -> Steps:
    return [(Scale(weight=-torch.ones((), dtype=torch.float64)), call.after)]


def _shifted(call: Call, sign: float, shift: Tensor) -> Steps:
    return [(Scale(weight=torch.full((), sign, dtype=torch.float64), bias=shift, terms=2), call.after)]


def _constant(call: Call) -> Tensor:
    """Return the operand that does not depend on the image, broadcastable against one image."""
    value = call.get("other") if call.first else call.get("input")
    value = exact(value) if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
    if value.dim() == len(call.before):
        if value.shape[0] != 1 and not torch.equal(value, value[:1].expand_as(value)):
            raise Unsupported(f"{call.name} with a constant of its own for each image")
        value = value[0]
    if value.dim() > len(call.after) or call.after != call.before[1:]:
        raise Unsupported(f"{call.name} that changes the shape")
    return value


def pair(value: Any) -> tuple[int, int]:
    """Return height and width of what may be one number for both."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    return (int(pair[0]), int(pair[-1]))


def exact(values: Tensor) -> Tensor:
    """Return the constants of a network in float64."""
    return values.detach().to(torch.float64, copy=True)


AFFINE: dict[str, Reader] = {
    "linear": _linear,
    "conv2d": _conv2d,
    "batch_norm": _batch_norm,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive,
    "mean": _mean,
    **dict.fromkeys(("flatten", "reshape", "view", "squeeze", "unsqueeze", "expand"), _reshape),
    **dict.fromkeys(("add", "add_", "__add__", "__radd__", "__iadd__"), _plus),
    **dict.fromkeys(("sub", "sub_", "subtract", "__sub__", "__isub__", "__rsub__", "rsub"), _minus),
    **dict.fromkeys(("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"), _times),
    **dict.fromkeys(
        ("div", "div_", "divide", "true_divide", "__truediv__", "__itruediv__", "__rtruediv__", "__rdiv__"), _over
    ),
    **dict.fromkeys(("neg", "negative", "__neg__"), _negative),
}
"""Name of a function -> the layers that it amounts to."""

EITHER = {name for name, reader in AFFINE.items() if reader in (_plus, _minus, _times, _over)}
"""Those to which the image may come as the second argument."""

"""The affine layers that bounds pass through, forwards, and backwards as transposes."""

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

HALF_ULP = 2.0**-24
"""Unit roundoff of float32, in which networks are deployed."""

TINY = 1e-30
"""Far above what underflow takes from one float32 operation and far below any margin."""

SLACK = 1.01
"""Covers the float64 rounding of the bounds themselves, whose terms are those of the float32 bound times 2^-29."""

FEW = 4
"""Input channels up to which a product and a sum of overlaps are faster than a transposed convolution."""


@dataclass(frozen=True, kw_only=True)
class Affine:
    """x -> W x + b for one layer, in exact arithmetic.

    Args:
        weight: what W is made of.
        bias: b, broadcastable against the output of one image; None: zero.
        size: least bound of |b| that also covers what is added and taken away again while b is formed; None: |b|.
        terms: number of roundings that one output entry of the deployed float32 layer passes through.
    """

    weight: Tensor
    bias: Tensor | None = None
    size: Tensor | None = None
    terms: int = 0

    diagonal: ClassVar[bool] = False  # whether every output entry reads one input entry

    def forward(self, x: Tensor) -> Tensor:
        """W x, [B, *out], for x [B, *in]; without the bias."""
        raise NotImplementedError

    def transpose(self, a: Tensor) -> Tensor:
        """W^T a [Q, *in] for a [Q, *out]."""
        raise NotImplementedError

    def offset(self) -> Tensor | float:
        """b, to be added to [B, *out]."""
        return 0.0 if self.bias is None else self.bias

    def rounding(self, reach: Tensor) -> Tensor:
        """Return how far the deployed float32 output may lie from W x + b where |x| <= reach; like [B, *out].

        gamma_n (|W| reach + |b|) with gamma_n = n u / (1 - n u): holds for products and sums in any order, with or
        without fused multiply-add (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1).
        """
        own = self.size if self.size is not None else 0.0 if self.bias is None else self.bias.abs()
        gamma = self.terms * HALF_ULP / (1 - self.terms * HALF_ULP)
        return SLACK * gamma * (self.absolute().forward(reach) + own) + TINY

    def back_terms(self) -> int:
        """Return the number of roundings that one entry of `transpose` passes through, that of the weights included."""
        return 2

    def absolute(self) -> Self:
        """Return the layer with |W|."""
        return replace(self, weight=self.weight.abs())

    def squared(self) -> Self:
        """Return the layer with the squares of W."""
        return replace(self, weight=self.weight.square())

    def to(self, dtype: torch.dtype) -> Self:
        """Return the same layer with weights of that dtype."""
        tensors: dict[str, Any] = {
            f.name: v.to(dtype) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors)


@dataclass(frozen=True, kw_only=True)
class Dense(Affine):
    """weight [out, in] on vectors."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T

    def transpose(self, a: Tensor) -> Tensor:
        return a @ self.weight

    def back_terms(self) -> int:
        return self.weight.shape[0] + 2


@dataclass(frozen=True, kw_only=True)
class Convolution(Affine):
    """weight [out, in / groups, k, k]; zero padding. `inside`: height and width of the input."""

    inside: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)

    def transpose(self, a: Tensor) -> Tensor:
        return self.spread(a, self.inside, self.padding)

    def spread(self, a: Tensor, inside: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        """Return the transpose for another height and width of the input, and padding."""
        kernel = self.weight.shape[2:]
        if self.weight.shape[1] <= FEW and self.groups == 1:
            columns = self.weight.flatten(1).T @ a.flatten(2)
            return functional.fold(columns, inside, kernel, self.dilation, padding, self.stride)
        spare = tuple(
            size - ((out - 1) * stride - 2 * pad + dilation * (wide - 1) + 1)
            for size, out, stride, pad, dilation, wide in zip(
                inside, a.shape[2:], self.stride, padding, self.dilation, kernel, strict=True
            )
        )  # input rows that no window reaches
        return functional.conv_transpose2d(
            a, self.weight, None, self.stride, padding, spare, self.groups, self.dilation
        )

    def phases(self) -> Tensor:
        """Return the kernel of a convolution of stride 1, padded by all but one of its sides, whose result is that of
        `spread` without padding: entry [c s t + i t + j, h, w] is entry [c, s h + i, t w + j], for strides s and t."""
        (down, right), (high, wide) = self.stride, self.weight.shape[2:]
        weight = functional.pad(self.weight, (0, -wide % right, 0, -high % down))
        outside, inside = weight.shape[:2]
        parts = weight.reshape(outside, inside, weight.shape[2] // down, down, weight.shape[3] // right, right)
        return parts.flip(2, 4).permute(1, 3, 5, 0, 2, 4).flatten(0, 2).contiguous()

    def back_terms(self) -> int:
        steps = self.stride if self.dilation == (1, 1) else (1, 1)
        reads = [-(-wide // step) for wide, step in zip(self.weight.shape[2:], steps, strict=True)]
        return self.weight.shape[0] // self.groups * reads[0] * reads[1] + 2


@dataclass(frozen=True, kw_only=True)
class Pool(Convolution):
    """The same window, weight [1, 1, k, k], on every channel by itself."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x.flatten(0, 1)[:, None])
        return out.reshape(*x.shape[:2], *out.shape[2:])

    def transpose(self, a: Tensor) -> Tensor:
        out = super().transpose(a.flatten(0, 1)[:, None])
        return out.reshape(*a.shape[:2], *out.shape[2:])


@dataclass(frozen=True, kw_only=True)
class Scale(Affine):
    """weight broadcastable against one image, multiplied entry by entry: batch norm, normalization, constants."""

    diagonal: ClassVar[bool] = True

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight

    def transpose(self, a: Tensor) -> Tensor:
        return a * self.weight


@dataclass(frozen=True, kw_only=True)
class Reshape(Affine):
    """Another shape for the same entries. `before`, `after`: shapes of one image; weight: an empty tensor."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    diagonal: ClassVar[bool] = True

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.after)

    def transpose(self, a: Tensor) -> Tensor:
        return a.reshape(len(a), *self.before)

    def back_terms(self) -> int:
        return 0

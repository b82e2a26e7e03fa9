"""The few kinds of ONNX messages that networks need, written as protocol buffers; needs no package.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

IR_VERSION = 8
OPSET = 13
"""Versions of the format and of its operators: old enough for every verifier."""

FLOAT, INT64 = 1, 7
"""Types of elements."""

INT, INTS = 2, 7
"""Types of attributes."""

Attribute = int | Sequence[int]


def model(nodes: Iterable[bytes], constants: Iterable[bytes], image: Sequence[int], classes: int) -> bytes:
    """Return an ONNX model that turns `input` [1, *image] into `output` [1, classes].

    Args:
        nodes: of `node`, each after those it reads.
        constants: of `constant`.
    """
    graph = b"".join(
        [
            *(_bytes(1, each) for each in nodes),
            _text(2, "network"),
            *(_bytes(5, each) for each in constants),
            _bytes(11, _value("input", (1, *image))),
            _bytes(12, _value("output", (1, classes))),
        ]
    )
    opset = _text(1, "") + _int(2, OPSET)
    return _int(1, IR_VERSION) + _text(2, "gauntlet") + _bytes(7, graph) + _bytes(8, opset)


def node(operator: str, reads: Iterable[str], writes: str, **attributes: Attribute) -> bytes:
    """Return one operation. attributes: whole numbers, or lists of them."""
    parts = [*(_text(1, name) for name in reads), _text(2, writes), _text(3, writes), _text(4, operator)]
    for name, value in attributes.items():
        many = not isinstance(value, int)
        numbers = list(value) if not isinstance(value, int) else [value]
        body = b"".join(_int(8 if many else 3, number) for number in numbers)
        parts.append(_bytes(5, _text(1, name) + body + _int(20, INTS if many else INT)))
    return b"".join(parts)


def constant(name: str, values: Tensor) -> bytes:
    """Return a named tensor, float32 or int64 as its values are whole or not."""
    whole = not values.is_floating_point()
    array = values.detach().cpu().to(torch.int64 if whole else torch.float32).contiguous().numpy()
    shape = b"".join(_int(1, size) for size in array.shape)
    raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return shape + _int(2, INT64 if whole else FLOAT) + _text(8, name) + _bytes(9, raw)


def _value(name: str, shape: Sequence[int]) -> bytes:
    axes = b"".join(_bytes(1, _int(1, size)) for size in shape)
    return _text(1, name) + _bytes(2, _bytes(1, _int(1, FLOAT) + _bytes(2, axes)))


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value & (2**64 - 1))


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])

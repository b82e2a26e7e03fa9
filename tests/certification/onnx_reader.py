"""A reader of ONNX files of our own, against which the writer is tested without the package onnx."""

import numpy as np
import torch
from torch.nn import functional


def fields(data):
    """Yield the fields of a message: number, and its value, a whole number or bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        value = varint()
        if key & 7 == 2:
            value, at = data[at : at + value], at + value
        yield key >> 3, value


def every(data, number):
    return [value for key, value in fields(data) if key == number]


def tensor(data):
    dtype = {1: "<f4", 7: "<i8"}[every(data, 2)[0]]
    values = np.frombuffer(every(data, 9)[0], dtype).reshape(every(data, 1))
    return every(data, 8)[0].decode(), torch.from_numpy(values.copy())


def attributes(node):
    found = {}
    for each in every(node, 5):
        kind = every(each, 20)[0]
        found[every(each, 1)[0].decode()] = every(each, 3)[0] if kind == 2 else tuple(every(each, 8))
    return found


def evaluate(data, x):
    """Scores of one image x [1, C, H, W], by the operators that our writer uses."""
    graph = every(data, 7)[0]
    values = dict(tensor(each) for each in every(graph, 5)) | {"input": x}
    for node in every(graph, 1):
        reads = [values[name.decode()] for name in every(node, 1)]
        values[every(node, 2)[0].decode()] = operation(every(node, 4)[0].decode(), reads, attributes(node))
    return values["output"]


def operation(name, reads, given):
    first = reads[0]
    if name == "Conv":
        bias = reads[2] if len(reads) > 2 else None
        pads = given["pads"][:2]
        return functional.conv2d(first, reads[1], bias, given["strides"], pads, given["dilations"], given["group"])
    if name == "AveragePool":
        assert given["count_include_pad"] == 1
        return functional.avg_pool2d(first, given["kernel_shape"], given["strides"], given["pads"][:2])
    if name == "Gemm":
        assert given["transB"] == 1
        return first @ reads[1].T + reads[2]
    if name == "Reshape":
        return first.reshape(reads[1].tolist())
    return {"Mul": torch.mul, "Add": torch.add, "Relu": lambda x: x.relu()}[name](*reads)

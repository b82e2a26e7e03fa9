"""A classifier from an ONNX file, converted to PyTorch by onnx2torch so that it has gradients."""

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gauntlet.errors import UserError, reason
from gauntlet.models.optional import needed
from gauntlet.models.wrapped import Wrapped

log = logging.getLogger(__name__)

OPSET = 13
"""Older files are raised to this version of the operators: converters know few of the older ones."""

IMAGE_RANK = 4
"""Of a batch of images; batch norms of these are left to onnx2torch, so that they can be folded."""


class OnnxModel(Wrapped):
    """A classifier from an ONNX file. An ONNX file holds no preprocessing: say it here.

    Args:
        path: of the file. Its first input takes images [batch, channels, height, width], its first output is logits.
        classes: number of logits.
        channels: of the images; grey ones are repeated where mean has three values.
        size: height and width of the images.
        mean, std, resize, interpolation, crop: as in `gauntlet.models.wrapped.Wrapped`; the defaults leave pixels as
            they are.

    Raises:
        UserError: onnx2torch is not installed, there is no such file, it is damaged, or an operator of it cannot be
            converted.
    """

    def __init__(
        self,
        path: str,
        classes: int,
        channels: int = 3,
        size: int = 32,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        resize: int | None = None,
        interpolation: str = "bilinear",
        crop: int | None = None,
    ) -> None:
        place = Path(path).expanduser()
        if not place.is_file():
            raise UserError(f"there is no file {place}; check model.path")
        super().__init__(converted(place), mean, std, channels, resize, interpolation, crop)
        self.origin = f"ONNX file {place.name}, by onnx2torch"
        _try(self, place, channels, size, classes)


def converted(path: Path) -> nn.Module:
    """Return the network of an ONNX file. Raises UserError, which names the operator that cannot be converted."""
    onnx, onnx2torch = needed("onnx", "onnx", "onnx"), needed("onnx2torch", "onnx", "onnx")
    try:
        graph = onnx.load(str(path))
        onnx.checker.check_model(graph)
    except Exception as cause:  # protobuf, the checker and the disk raise many types
        raise UserError(f"{path} is no sound ONNX file ({reason(cause)}); export it again") from None
    version = next((o.version for o in graph.opset_import if o.domain in ("", "ai.onnx")), OPSET)
    if version < OPSET:
        try:
            graph = onnx.version_converter.convert_version(graph, OPSET)
        except Exception as cause:
            raise UserError(
                f"{path} has operators of version {version}, and onnx cannot raise them to {OPSET} ({reason(cause)}); "
                f"export it again with opset_version={OPSET}"
            ) from None
    graph = restated(onnx, graph)
    try:
        network: nn.Module = onnx2torch.convert(graph)
    except Exception as cause:
        operator = _culprit(onnx2torch, graph)
        raise UserError(
            f"{path}: the operator {operator} cannot be converted ({reason(cause)}); export the network without it, or "
            "take the network of PyTorch that it was exported from"
        ) from None
    return network


def restated(onnx: Any, graph: Any) -> Any:
    """Return the graph with batch norms of other than images as a product and a sum, which every converter knows.

    They stand in transformers, on [batch, channels, tokens] or [batch, channels].
    """
    ranks = _ranks(onnx, graph)
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.graph.initializer}
    nodes = []
    for node in graph.graph.node:
        rank = ranks.get(node.input[0], IMAGE_RANK) if node.op_type == "BatchNormalization" else IMAGE_RANK
        if rank >= IMAGE_RANK or not set(node.input[1:]) <= constants.keys():
            nodes.append(node)
            continue
        weight, bias, mean, variance = (constants[name].astype(np.float64) for name in node.input[1:])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        scale = weight / np.sqrt(variance + epsilon)
        shape = (-1,) + (1,) * (rank - 2)
        prefix = f"{node.output[0]}_restated"
        for name, value in (("scale", scale), ("shift", bias - mean * scale)):
            array = value.reshape(shape).astype(np.float32)
            graph.graph.initializer.append(onnx.numpy_helper.from_array(array, f"{prefix}_{name}"))
        make = onnx.helper.make_node
        nodes.append(make("Mul", [node.input[0], f"{prefix}_scale"], [f"{prefix}_product"], name=f"{prefix}_mul"))
        nodes.append(make("Add", [f"{prefix}_product", f"{prefix}_shift"], list(node.output), name=f"{prefix}_add"))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def _ranks(onnx: Any, graph: Any) -> dict[str, int]:
    """Return the number of axes of what each batch norm takes, by running one black image.

    Shapes that a graph computes from that of its input are not known before.
    """
    names = list(dict.fromkeys(node.input[0] for node in graph.graph.node if node.op_type == "BatchNormalization"))
    if not names:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    weights = {each.name for each in graph.graph.initializer}
    first = next(value for value in graph.graph.input if value.name not in weights)
    shape = [axis.dim_value or 1 for axis in first.type.tensor_type.shape.dim]
    try:
        run = importlib.import_module("onnx.reference").ReferenceEvaluator(watched)
        found = run.run(None, {first.name: np.zeros(shape, dtype=np.float32)})
    except Exception as cause:  # an operator that the reference lacks: the converter has the last word
        log.debug("the axes of batch norms are not known: %s", reason(cause))
        return {}
    return {name: value.ndim for name, value in zip(names, found, strict=True)}


def _culprit(onnx2torch: Any, graph: Any) -> str:
    """Return the first operator of a graph without a converter; those that fail in theirs are not known by name."""
    versions = {each.domain: each.version for each in graph.opset_import}
    for node in graph.graph.node:
        try:
            onnx2torch.node_converters.registry.get_converter(
                node.op_type, versions.get(node.domain, OPSET), node.domain
            )
        except NotImplementedError:
            return f"{node.op_type} ({node.name or node.output[0]})"
        except Exception:  # another version of onnx2torch: the message of the failure must do
            break
    return "that its message names"


def _try(model: nn.Module, path: Path, channels: int, size: int, classes: int) -> None:
    """Run one black image. Raises UserError where the file takes other images or gives other logits."""
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(torch.zeros(2, channels, size, size)).shape)
    except UserError:
        raise
    except Exception as cause:
        raise UserError(
            f"{path} does not run on 2 images of {channels}x{size}x{size} ({reason(cause)}); export it with a dynamic "
            "batch axis, and set model.resize or dataset.size to what it takes"
        ) from None
    if shape != (2, classes):
        raise UserError(f"{path} gives outputs {list(shape)} for 2 images; it must be logits [2, {classes}]")

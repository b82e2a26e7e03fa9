"""A deployed network as an ONNX file, for verifiers of other projects."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gauntlet.certification.crown.affine_layers import Convolution, Dense, Pool, Reshape, Scale
from gauntlet.certification.crown.curves import SShaped
from gauntlet.certification.crown.graph import Graph, Input, Node, Relu, Sum
from gauntlet.certification.crown.graph_tracing import trace
from gauntlet.certification.exchange.protobuf import constant, model, node
from gauntlet.errors import UserError, reason

AGREE = 1e-4
"""Share of the spread of the scores by which what was written may differ from what is deployed."""


def onnx_network(forward: Callable[[Tensor], Tensor], modules: tuple[nn.Module, ...], x: Tensor) -> bytes:
    """Return a network as an ONNX file that takes one image and gives its scores.

    What deterministic bounds can read is written from what they read: convolutions, matrices, ReLUs, sums and products
    with constants, which every verifier knows. Anything else needs the exporter of torch, and so the packages onnx and
    onnxscript.

    Args:
        forward: images [B, C, H, W] to scores [B, K], deterministic, in eval mode.
        modules: that forward calls.
        x: images, on which what was written is compared with the deployed network.

    Raises:
        UserError: the network cannot be written, or what was written computes something else.
    """
    shape = tuple(x.shape[1:])
    with torch.no_grad():
        scores = forward(x).double().cpu()
    try:
        graph = trace(forward, modules, shape)
        encoded = written(graph)
        again = graph.to(torch.float32).forward(x).double().cpu()
    except UserError as cause:
        encoded = _by_torch(forward, x[:1], str(cause))
        again = _evaluated(encoded, x[:1])
    apart, spread = (again - scores[: len(again)]).abs().amax(), scores.std().clamp_min(1e-12)
    if not apart <= AGREE * spread:
        raise UserError(
            f"the ONNX file differs from the network by {float(apart / spread):.2g} of the spread of its scores; the "
            "defense keeps a state, or branches on its input"
        )
    return encoded


def written(graph: Graph) -> bytes:
    """Return the ONNX file of a graph, weights rounded to float32.

    Raises:
        UserError: it holds an operation that this writer does not know.
    """
    nodes: list[bytes] = []
    constants: list[bytes] = []
    names: list[str] = []
    for at, each in enumerate(graph.nodes):
        name = "output" if at == len(graph.nodes) - 1 else f"n{at}"
        if isinstance(each.op, Input):
            names.append("input")
            continue
        reads = [names[source] for source in each.inputs]
        operations = list(_operations(each))
        for number, (operator, values, attributes) in enumerate(operations, 1):
            result = name if number == len(operations) else f"{name}_{number}"
            named = {f"{result}_{key}": value for key, value in values.items()}
            constants += [constant(key, value) for key, value in named.items()]
            nodes.append(node(operator, [*reads, *named], result, **attributes))
            reads = [result]
        names.append(name)
    return model(nodes, constants, graph.nodes[0].shape, graph.classes)


Operation = tuple[str, dict[str, Tensor], dict[str, Any]]
"""An operator, its constants by name, and its attributes."""


def _operations(each: Node) -> Iterator[Operation]:
    """Yield the operators of a node, one after the other.

    Raises:
        UserError: there is none.
    """
    op = each.op
    if isinstance(op, Relu):
        yield "Relu", {}, {}
    elif isinstance(op, SShaped):
        yield op.name.capitalize(), {}, {}
    elif isinstance(op, Sum):
        yield "Add", {}, {}
    elif isinstance(op, Pool):
        yield "AveragePool", {}, _windows(op) | {"count_include_pad": 1}
    elif isinstance(op, Convolution):
        biased = {} if op.bias is None else {"bias": op.bias.flatten()}
        yield "Conv", {"weight": op.weight} | biased, _windows(op) | {"dilations": op.dilation, "group": op.groups}
    elif isinstance(op, Dense) and len(each.shape) == 1:
        bias = torch.zeros(len(op.weight)) if op.bias is None else op.bias.flatten()
        yield "Gemm", {"weight": op.weight, "bias": bias}, {"transB": 1}
    elif isinstance(op, Scale):
        yield "Mul", {"weight": op.weight}, {}
        if op.bias is not None:
            yield "Add", {"bias": op.bias}, {}
    elif isinstance(op, Reshape):
        yield "Reshape", {"shape": torch.tensor([1, *op.after])}, {}
    else:
        raise UserError(f"there is no ONNX operator here for {type(op).__name__} in layer {each.name}")


def _windows(op: Convolution) -> dict[str, Any]:
    return {"kernel_shape": tuple(op.weight.shape[2:]), "strides": op.stride, "pads": (*op.padding, *op.padding)}


class _Forward(nn.Module):
    """A function as a module, which exporters want."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _by_torch(forward: Callable[[Tensor], Tensor], x: Tensor, why: str) -> bytes:
    """Return the ONNX file of torch's own exporter. why: bounds cannot read the network, in words."""
    try:
        for package in ("onnx", "onnxscript"):
            importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"{why}; to export it with the exporter of torch: pip install 'gauntlet-robustness[onnx]'"
        ) from None
    try:
        program = torch.onnx.export(
            _Forward(forward).eval(), (x,), input_names=["input"], output_names=["output"], dynamo=True, verbose=False
        )
        assert program is not None
        return bytes(program.model_proto.SerializeToString())
    except Exception as cause:  # the exporter raises many types
        raise UserError(
            f"torch cannot export this network to ONNX ({reason(cause)}); verifiers that read ONNX cannot take it"
        ) from None


def _evaluated(encoded: bytes, x: Tensor) -> Tensor:
    """Return the scores of one image by the reference implementation of ONNX."""
    onnx = importlib.import_module("onnx")
    evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(onnx.load_from_string(encoded))
    (scores,) = evaluator.run(None, {"input": x.cpu().numpy()})
    return torch.from_numpy(scores).double()

"""Read a deployed network: run it once and note what it does to the image."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gauntlet.certification.crown.graph import Graph, Input, Node, Relu, Sum, pruned
from gauntlet.certification.crown.layer_parsing import Call, Unsupported
from gauntlet.errors import UserError

BATCH = 2
"""Images in the run that is watched: more than one, so that a layer that mixes images shows."""

QUESTIONS = {"__get__", "size", "dim", "numel", "__len__", "is_contiguous", "is_floating_point", "ndimension"}
"""Functions whose answers, when they are no tensors, do not depend on the pixels."""

SAME = {"clone", "contiguous", "detach", "to", "float", "dropout", "dropout2d", "feature_dropout", "alias"}
RELU = {"relu", "relu_"}
SUM = {"add", "add_", "__add__", "__radd__", "__iadd__"}

WAY_OUT = (
    "bounds know convolution, linear, batch norm, ReLU, average pooling, sums, constants and reshaping; "
    "certifier=smoothing takes any network"
)


def trace(forward: Callable[[Tensor], Tensor], modules: tuple[nn.Module, ...], shape: tuple[int, ...]) -> Graph:
    """Return the graph of a network, with weights in float64.

    Whatever Python code is run, only what happens to the image counts: constants, hooks and reparametrised weights are
    taken as they are at this moment.

    Args:
        forward: images [B, C, H, W] to scores [B, K], deterministic, in eval mode.
        modules: that forward calls, for the names of layers in messages.
        shape: of one image, [C, H, W].

    Raises:
        UserError: the network does what bounds do not support; the layer is named.
    """
    x = torch.rand(BATCH, *shape, generator=torch.Generator().manual_seed(0))
    device = next((p.device for module in modules for p in module.parameters()), torch.device("cpu"))
    watch = _Watch()
    image = x.to(device)
    watch.keep(image, Node(Input(), (), shape, "image"))
    with torch.no_grad(), _named(modules, watch.path), watch:
        logits = forward(image)
    last = watch.place.get(id(logits))
    if last is None or len(watch.nodes[last].shape) != 1:
        raise UserError(f"the network does not turn images into one row of class scores each; {WAY_OUT}")
    return pruned(watch.nodes, last)


class _Watch(TorchFunctionMode):
    """Notes every function that gets a tensor which depends on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.place: dict[int, int] = {}  # id of a tensor -> its node
        self.alive: list[Tensor] = []  # so that no id is used twice
        self.path: list[str] = []  # of the layer that runs

    def keep(self, value: Tensor, node: Node) -> None:
        self.nodes.append(node)
        self.alive.append(value)
        self.place[id(value)] = len(self.nodes) - 1

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        read = [v for v in _flat((*args, *kwargs.values())) if isinstance(v, Tensor) and id(v) in self.place]
        sources, before = [self.place[id(v)] for v in read], [tuple(v.shape) for v in read]
        result = func(*args, **kwargs)
        if not read:
            return result
        name = getattr(func, "__name__", str(func))
        try:
            if isinstance(result, Tensor):
                first = bool(args) and args[0] is read[0]
                self._note(result, sources, before, Call(name, args, kwargs, first, before[0], tuple(result.shape[1:])))
            elif name not in QUESTIONS:
                raise Unsupported(name)
        except Unsupported as cause:
            where = f" in layer {self.path[-1]}" if self.path else " in what the defense does around its networks"
            raise UserError(f"bounds do not support {cause}{where}; {WAY_OUT}") from None
        return result

    def _note(self, result: Tensor, sources: list[int], before: list[tuple[int, ...]], call: Call) -> None:
        name, shape, label = call.name, call.after, self.path[-1] if self.path else call.name
        if result.shape[:1] != (BATCH,) or result.dtype != torch.float32:
            raise Unsupported(name)
        if name in SAME and tuple(result.shape) == before[0]:
            if "dropout" in name and _training(call):
                raise Unsupported(f"{name} in training mode")
            self.alive.append(result)
            self.place[id(result)] = sources[0]
        elif name in RELU:
            self.keep(result, Node(Relu(), (sources[0],), shape, label))
        elif name in SUM and len(sources) == 2:
            if before[0] != before[1] or call.get("alpha", 1) != 1:
                raise Unsupported(f"{name} of unlike shapes or with alpha")
            self.keep(result, Node(Sum(), (sources[0], sources[1]), shape, label))
        elif len(sources) == 1:
            for op, form in call.read():
                self.keep(result, Node(op, (sources[0],), form, label))
                sources = [len(self.nodes) - 1]
        else:
            raise Unsupported(f"{name} of two tensors that depend on the image")


def _training(call: Call) -> bool:
    return bool(call.kwargs.get("training", call.args[2] if len(call.args) > 2 else False))


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        yield from value if isinstance(value, list | tuple) else (value,)


@contextmanager
def _named(modules: tuple[nn.Module, ...], path: list[str]) -> Iterator[None]:
    """While this lasts, `path` ends with the name and the type of the layer that runs."""

    def enter(name: str) -> Callable[..., None]:
        return lambda layer, given: path.append(f"{name} ({type(layer).__name__})".strip())

    def leave(layer: nn.Module, given: Any, result: Any) -> None:
        path.pop()

    hooks = []
    try:
        for module in modules:
            for name, layer in module.named_modules():
                hooks.append(layer.register_forward_pre_hook(enter(name)))
                hooks.append(layer.register_forward_hook(leave))
        yield
    finally:
        for hook in hooks:
            hook.remove()

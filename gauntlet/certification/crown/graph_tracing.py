"""Read a deployed network: run it once and note what it does to the image."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gauntlet.certification.crown.curves import CURVES
from gauntlet.certification.crown.drafts import Draft, WatchedCall, flat, tensors
from gauntlet.certification.crown.graph import Graph, Input, Node, Relu, Sum, pruned
from gauntlet.certification.crown.joint_parsing import reader_of
from gauntlet.certification.crown.layer_parsing import Call, Unsupported
from gauntlet.certification.crown.max_pooling import MAX_POOL, max_pool
from gauntlet.errors import UserError
from gauntlet.system.dispatch_mode import DispatchMode

BATCH = 2
"""Images in the run that is watched: more than one, so that a layer that mixes images shows."""

QUESTIONS = {"__get__", "size", "dim", "numel", "__len__", "is_contiguous", "is_floating_point", "ndimension"}
"""Functions whose answers, when they are no tensors, do not depend on the pixels."""

WRITTEN = "written in place through a view or another name of them"
SAME = {"clone", "contiguous", "detach", "to", "float", "dropout", "dropout2d", "feature_dropout", "alias"}
RELU = {"relu", "relu_"}
SUM = {"add", "add_", "__add__", "__radd__", "__iadd__"}

HINT = (
    "bounds know convolution, linear, batch and layer norm, ReLU, sigmoid, tanh, GELU, SiLU, softmax, products, "
    "attention without a mask, average and max pooling, sums, constants and what moves entries; "
    "certifier=smoothing takes any network"
)


def trace(forward: Callable[[Tensor], Tensor], modules: tuple[nn.Module, ...], shape: tuple[int, ...]) -> Graph:
    """Return the graph of a network, with weights in float64.

    Whatever Python code is run, only what happens to the image counts: constants, hooks and reparametrised weights are
    taken as they are at this moment. A tensor that was written after it was made, through a view, its base or another
    name, is no longer what was noted: reading it is refused.

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
    try:
        with torch.no_grad(), _named(modules, watch.path), watch, _Stray(watch):
            logits = forward(image)
    except Exception:
        if watch.refused is None:
            raise
    if watch.refused is not None:  # whatever the network made of it
        raise watch.refused
    last = watch.place.get(id(logits))
    if last is None or id(logits) in watch.displaced or len(watch.nodes[last].shape) != 1:
        raise UserError(f"the network does not turn images into one row of class scores each; {HINT}")
    if watch.noted[id(logits)].stale:
        raise UserError(f"bounds do not support scores that were {WRITTEN}; {HINT}")
    return pruned(watch.nodes, last)


@dataclass(frozen=True)
class _Noted:
    """A tensor as it was when it was made, so that later writes show; held, so that no id is used twice."""

    value: Tensor
    copy: Tensor
    version: int

    @classmethod
    def of(cls, value: Tensor) -> "_Noted":
        return cls(value, value.clone(), _version(value))

    @property
    def stale(self) -> bool:
        """Return whether it was written since, by any name of its storage. The values show what has no version."""
        return _version(self.value) != self.version or not torch.equal(self.value, self.copy)


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


class _Watch(TorchFunctionMode):
    """Notes every function that gets a tensor which depends on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.place: dict[int, int] = {}  # id of a tensor -> its node
        self.noted: dict[int, _Noted] = {}
        self.displaced: dict[int, Tensor] = {}  # as in `WatchedCall`
        self.path: list[str] = []  # of the layer that runs
        self.inside = False  # one of the functions that are noted
        self.refused: UserError | None = None  # the first of them

    def keep(self, value: Tensor, node: Node) -> None:
        self.nodes.append(node)
        self.put(value, len(self.nodes) - 1)

    def put(self, value: Tensor, place: int) -> None:
        self.place[id(value)], self.noted[id(value)] = place, _Noted.of(value)

    def refuse(self, what: str) -> UserError:
        """Return, and keep, the error that bounds do not support this, and where; always the first."""
        where = f" in layer {self.path[-1]}" if self.path else " in what the defense does around its networks"
        self.refused = self.refused or UserError(f"bounds do not support {what}{where}; {HINT}")
        return self.refused

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        read = [v for v in flat((*args, *kwargs.values())) if isinstance(v, Tensor) and id(v) in self.place]
        if not read:
            return func(*args, **kwargs)
        self.inside = True
        try:
            return self._watched(func, args, kwargs, read)
        except Unsupported as cause:
            raise self.refuse(str(cause)) from None
        finally:
            self.inside = False

    def _watched(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], read: list[Tensor]) -> Any:
        """Return what the function gives, noted. read: what of its arguments depends on the image."""
        name = getattr(func, "__name__", str(func))
        if any(self.noted[id(v)].stale for v in read):
            raise Unsupported(f"{name} of values that were {WRITTEN}")
        if kwargs.get("out") is not None:
            raise Unsupported(f"{name} with out=")
        sources, before = [self.place[id(v)] for v in read], [tuple(v.shape) for v in read]
        result = func(*args, **kwargs)
        made = (result,) if isinstance(result, Tensor) else tensors(result)
        request = WatchedCall(func, name, args, kwargs, self.place, made, BATCH, self.displaced)
        if made and (reader := reader_of(request, read)):
            if any(each.dtype != torch.float32 for each in made):
                raise Unsupported(name)
            draft = Draft(self.nodes, self.path[-1] if self.path else name)
            for each, at in zip(made, reader(request, draft), strict=True):
                self.put(each, at)
        elif isinstance(result, Tensor):
            first = bool(args) and args[0] is read[0]
            if request.merged(read):
                request.check_alike(read)
                form = self.nodes[sources[0]].shape
                self._note(result, sources, before, Call(name, args, kwargs, first, (BATCH, *form), form))
            else:
                self._note(result, sources, before, Call(name, args, kwargs, first, before[0], tuple(result.shape[1:])))
        elif name not in QUESTIONS:
            raise Unsupported(name)
        return result

    def _note(self, result: Tensor, sources: list[int], before: list[tuple[int, ...]], call: Call) -> None:
        name, shape, label = call.name, call.after, self.path[-1] if self.path else call.name
        if result.shape[0] % BATCH or result.dtype != torch.float32:
            raise Unsupported(name)
        if name in SAME and tuple(result.shape) == before[0]:
            if "dropout" in name and _training(call):
                raise Unsupported(f"{name} in training mode")
            self.put(result, sources[0])
        elif name in RELU:
            self.keep(result, Node(Relu(), (sources[0],), shape, label))
        elif name.rstrip("_") in CURVES:
            self.keep(result, Node(CURVES[name.rstrip("_")], (sources[0],), shape, label))
        elif name in SUM and len(sources) == 2:
            if before[0] != before[1] or call.get("alpha", 1) != 1:
                raise Unsupported(f"{name} of unlike shapes or with alpha")
            self.keep(result, Node(Sum(), (sources[0], sources[1]), shape, label))
        elif name in MAX_POOL and len(sources) == 1 and len(before[0]) == 4:
            *inner, last = max_pool(call, sources[0], len(self.nodes), label)
            self.nodes += inner
            self.keep(result, last)
        elif len(sources) == 1:
            for op, form in call.read():
                self.keep(result, Node(op, (sources[0],), form, label))
                sources = [len(self.nodes) - 1]
        else:
            raise Unsupported(f"{name} of two tensors that depend on the image")


class _Stray(DispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what reaches the image past the functions of torch that are noted: operators called by name, scripts."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = flat((*args, *kwargs.values()))
        if not self.watch.inside and any(isinstance(v, Tensor) and id(v) in self.watch.place for v in given):
            self.watch.refuse(f"{func}, called past torch's functions,")
        return func(*args, **kwargs)


def _training(call: Call) -> bool:
    return bool(call.kwargs.get("training", call.args[2] if len(call.args) > 2 else False))


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

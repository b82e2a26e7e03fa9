"""Batch norm folded into the layer before it: the same function at about half the cost, for gradient passes."""

import copy
import inspect
import warnings
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

Layer = nn.Conv2d | nn.Linear
Norm = nn.BatchNorm2d | nn.BatchNorm1d

PAIRS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: nn.BatchNorm2d, nn.Linear: nn.BatchNorm1d}
"""What is folded: exact types, because a subclass may compute something else."""


def folded(module: nn.Module) -> nn.Module:
    """A copy of the network in eval mode, channels last, with every batch norm folded into the layer right before it.

    The copy keeps the structure, names and `forward` of the original: a folded layer has new weights and its batch norm
    becomes an identity. The graph that tells what follows what is only read, so randomness and hooks stay as they are.
    The parameters of the copy need no gradient. Logits agree up to rounding; the output of a folded convolution does
    not, so tap blocks or batch norms, not convolutions.

    A network whose graph cannot be traced comes back as a copy without folding, one that cannot be copied as it is.
    Never raises.
    """
    try:
        result = copy.deepcopy(module).eval()
    except Exception:  # whatever the copying code of a foreign module raises
        return module
    for layer, norm in _pairs(result):
        _fold(result, layer, norm)
    for parameter in result.parameters():
        parameter.requires_grad_(False)
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return result


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Names of layers and of the batch norms that may be folded into them; none where the graph cannot be traced."""
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            graph = _trace(copy.deepcopy(module))  # a copy: forward may keep things on itself
    except Exception:  # whatever a foreign forward raises when it meets a symbol
        return []
    modules = dict(module.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    return [
        (layer, norm)
        for layer, norm in _neighbours(graph)
        if calls[layer] == calls[norm] == 1 and not {layer, norm} & read and _foldable(modules[layer], modules[norm])
    ]


def _trace(module: nn.Module) -> fx.Graph:
    signature = inspect.signature(module.forward).parameters.values()
    defaults = {p.name: p.default for p in signature if p.default is not p.empty}
    return fx.Tracer().trace(module, concrete_args=defaults or None)


def _neighbours(graph: fx.Graph) -> Iterator[tuple[str, str]]:
    """Pairs of modules of which the second alone takes what the first gives."""
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1:
            yield str(before.target), str(node.target)


def _foldable(layer: nn.Module, norm: nn.Module) -> bool:
    if PAIRS.get(type(layer)) is not type(norm) or _hooked(layer) or _hooked(norm):
        return False
    assert isinstance(layer, Layer)
    assert isinstance(norm, Norm)
    # On [B, L, F] a batch norm normalizes L: its number of features then differs from that of the linear layer.
    return not norm.training and norm.running_var is not None and norm.num_features == layer.weight.shape[0]


def _hooked(module: nn.Module) -> bool:
    """Such as the old weight norm, which computes the weight before each call."""
    return any((module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks))


def _fold(module: nn.Module, layer_name: str, norm_name: str) -> None:
    """w x + b, then (v - mean) / sqrt(var + eps) * gain + shift, as one layer; computed in float64."""
    layer, norm = module.get_submodule(layer_name), module.get_submodule(norm_name)
    assert isinstance(layer, Layer)
    assert isinstance(norm, Norm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight = _exact(layer.weight)
    scale = (_exact(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _exact(norm.weight)
    bias = -_exact(norm.running_mean) if layer.bias is None else _exact(layer.bias) - _exact(norm.running_mean)
    bias = bias * scale if norm.bias is None else bias * scale + _exact(norm.bias)
    layer.bias = nn.Parameter(bias.to(layer.weight))
    layer.weight = nn.Parameter((weight * scale.view(-1, *[1] * (weight.dim() - 1))).to(layer.weight))
    norm.__class__ = nn.Identity  # type: ignore[assignment]  # in place: others may hold this layer under another name


def _exact(values: Tensor) -> Tensor:
    """On the CPU, because not every device has float64."""
    return values.detach().to("cpu", torch.float64)

"""Say what a network is: its class and file, how many parameters it has, and what happens to pixels first."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gauntlet.models.normalize import Normalize
from gauntlet.models.wrapped import Wrapped

LARGEST = 4
"""Channels of an image, at most."""


def network_facts(module: nn.Module) -> dict[str, Any]:
    """Return what a record says of a network beside its weights."""
    return {
        "architecture": architecture(module),
        "parameters": sum(p.numel() for p in module.parameters()),
        "preprocessing": preprocessing(module),
    }


def resizing_lines(module: nn.Module, dataset: Any) -> list[str]:
    """Return what a data set does to photographs otherwise than the author of a network declares; empty: nothing."""
    expects = next((m.expects for m in module.modules() if isinstance(m, Wrapped)), None)
    if expects is None:
        return []
    lines: list[str] = expects.against(
        dataset.size, getattr(dataset, "resize", None), getattr(dataset, "interpolation", "bilinear")
    )
    return lines


def architecture(module: nn.Module) -> str:
    """Return the class of a network and the file that defines it; of one behind its preprocessing, its own."""
    while isinstance(module, Wrapped):
        if module.origin:
            return module.origin
        module = module.model
    kind = type(module)
    if kind in (nn.Sequential, nn.DataParallel):
        return f"{kind.__name__} of {', '.join(type(child).__name__ for child in module.children())}"[:200]
    return f"{kind.__name__} of {_file(kind)}"


def preprocessing(module: nn.Module) -> str:
    """Return what happens to pixels before the first layer, as far as this package or a layer for it does it."""
    wrapped = next((m for m in module.modules() if isinstance(m, Wrapped)), None)
    if wrapped is not None:
        return wrapped.preprocessing
    own = next((m for m in module.modules() if isinstance(m, Normalize)), None)
    return own.text if own is not None else _foreign_normalization(module) or "as they are"


def _foreign_normalization(module: nn.Module) -> str:
    """Return what a layer of another package says that it does to pixels, such as torchvision's `Normalize`; "" without
    one."""
    for layer in module.modules():
        if "normalize" in type(layer).__name__.lower() and hasattr(layer, "mean") and hasattr(layer, "std"):
            try:
                mean, std = (
                    torch.as_tensor(values, dtype=torch.float32).flatten() for values in (layer.mean, layer.std)
                )
            except (TypeError, ValueError, RuntimeError):
                continue
            if 0 < len(mean) <= LARGEST and 0 < len(std) <= LARGEST:
                words = (", ".join(f"{value:.4g}" for value in values.tolist()) for values in (mean, std))
                return "mean [{}], std [{}]".format(*words) + f", by {type(layer).__name__} inside"
    return ""


def _file(kind: type) -> str:
    """Return the file of a class below its package, or its name alone where it is in none."""
    package = kind.__module__.split(".")
    try:
        path = Path(inspect.getsourcefile(kind) or "")
    except (TypeError, OSError):
        return ".".join(package)
    return path.name if len(package) == 1 else "/".join([*package[:-1], path.name])

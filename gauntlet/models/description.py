"""Say what a network is: its class and file, how many parameters it has, and what happens to pixels first."""

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from gauntlet.models.declared_normalization import Constants
from gauntlet.models.inner_normalization import inner_normalization
from gauntlet.models.normalize import PLAIN, Normalize
from gauntlet.models.restricted import Restricted
from gauntlet.models.voting_networks import VotingNetworks
from gauntlet.models.wrapped import Wrapped


def network_facts(module: nn.Module, channels: int, size: int) -> dict[str, Any]:
    """Return what a record says of a network beside its weights. channels, size: of the images."""
    return {
        "architecture": architecture(module),
        "parameters": sum(p.numel() for p in module.parameters()),
        "preprocessing": preprocessing(module, channels, size),
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
    if isinstance(module, Restricted):
        return f"{architecture(module.model)}, judged on {len(module.columns)} classes ({module.origin})"
    if isinstance(module, VotingNetworks):
        return f"{len(module.networks)} networks that vote, each {architecture(module.networks[0])}"
    kind = type(module)
    if kind in (nn.Sequential, nn.DataParallel):
        return f"{kind.__name__} of {', '.join(type(child).__name__ for child in module.children())}"[:200]
    return f"{kind.__name__} of {_file(kind)}"


def preprocessing(module: nn.Module, channels: int, size: int) -> str:
    """Return what happens to pixels before the first layer with weights.

    Args:
        module: in eval mode; called once.
        channels, size: of the images.
    """
    own = next((m for m in module.modules() if isinstance(m, Normalize)), None)
    if own is None:
        return inner_normalization(module, channels, size, None) or PLAIN
    wrapped = next((m for m in module.modules() if isinstance(m, Wrapped)), None)
    text = own.text if wrapped is None else wrapped.preprocessing
    outer = None if own.text == PLAIN else Constants(own.mean.flatten().cpu(), own.std.flatten().cpu())
    inner = inner_normalization(module, channels, size, outer)
    if inner and outer is None:
        return text.replace(PLAIN, inner)
    return ", ".join(filter(None, (text, inner)))


def _file(kind: type) -> str:
    """Return the file of a class below its package, or its name alone where it is in none."""
    package = kind.__module__.split(".")
    try:
        path = Path(inspect.getsourcefile(kind) or "")
    except (TypeError, OSError):
        return ".".join(package)
    return path.name if len(package) == 1 else "/".join([*package[:-1], path.name])

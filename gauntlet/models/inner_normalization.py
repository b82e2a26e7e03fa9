"""A normalization inside a network, whoever wrote it: measured at its first layer with weights, named by its constants.

RobustBench's networks keep theirs as `mu` and `sigma`, others as `mean` and `std`; some have the numbers in their code.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gauntlet.models.declared_normalization import HIGH, LOW, Constants, same
from gauntlet.models.normalize import Normalize

NAMES = (("mu", "sigma"), ("mean", "std"), ("pixel_mean", "pixel_std"))
"""What networks call the two constants."""

LARGEST = 4
"""Channels of an image, at most."""


class Held(NamedTuple):
    """The constants that a module holds beside its weights."""

    holder: nn.Module
    names: str
    constants: Constants


def held(module: nn.Module) -> Iterator[Held]:
    """Yield each pair of constants that a module inside holds, other than this package's own."""
    for inner in module.modules():
        for names in () if isinstance(inner, Normalize) else NAMES:
            try:
                values = [torch.as_tensor(getattr(inner, name), dtype=torch.float32).flatten() for name in names]
            except (AttributeError, TypeError, ValueError, RuntimeError):
                continue
            if all(0 < len(v) <= LARGEST for v in values) and bool((values[1] > 0).all()):
                length = max(len(v) for v in values)
                wide = (v.detach().cpu().expand(length) if len(v) == 1 else v.detach().cpu() for v in values)
                yield Held(inner, " and ".join(names), Constants(*wide))


@torch.no_grad()
def at_first_layer(module: nn.Module, channels: int, size: int) -> Constants | None:
    """Return the normalization of the pixels that reach the first layer with weights; None where it gets no images, or
    other ones than a constant for each channel makes of pixels.

    Args:
        module: in eval mode; called once, on two uniform images.
        channels, size: of the images.
    """
    module = getattr(module, "_orig_mod", module)  # a compiled one would be compiled anew
    seen: list[Tensor] = []
    hooks = []

    def note(_: nn.Module, args: Any) -> None:
        if not seen:
            seen.append(args[0] if args and isinstance(args[0], Tensor) else torch.empty(0))

    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        for layer in filter(_has_weights, module.modules()):
            hooks.append(layer.register_forward_pre_hook(note))  # one by one: those of a program may refuse
        levels = torch.tensor([LOW, HIGH], device=device).view(2, 1, 1, 1)
        with torch.random.fork_rng(devices=[]):
            module(levels.expand(2, channels, size, size).contiguous())
    except Exception:  # of the network itself: the checks of the forward say it
        return None
    finally:
        for hook in hooks:
            hook.remove()
    if not seen or seen[0].dim() != 4 or len(seen[0]) != 2 or seen[0].shape[1] > LARGEST:
        return None
    low, high = seen[0][:, :, seen[0].shape[2] // 2, seen[0].shape[3] // 2].float().cpu()  # padding is at the border
    slope = (high - low) / (HIGH - LOW)
    if not bool((slope.abs() > 1e-6).all()):
        return None
    return Constants(LOW - low / slope, 1 / slope)


def inner_normalization(module: nn.Module, channels: int, size: int, outer: Constants | None) -> str:
    """Return what a network does to pixels beside what is known, in words; empty: nothing that is seen.

    Args:
        module: in eval mode.
        channels, size: of the images.
        outer: the normalization before it that is known; None: there is none.
    """
    found = at_first_layer(module, channels, size)
    if found is None:
        first = next(held(module), None)
        return "" if first is None else f"{first.constants}, by {first.names} of {type(first.holder).__name__} inside"
    plain = Constants(torch.zeros_like(found.mean), torch.ones_like(found.std))
    if same(found, plain if outer is None else outer):
        return ""
    if outer is not None:
        return f"with what the model does inside {found}"
    source = next((it for it in held(module) if same(it.constants, found)), None)
    by = "" if source is None else f", by {source.names} of {type(source.holder).__name__}"
    return f"normalized inside the model: {found}{by}"


def contradiction(module: nn.Module, channels: int, size: int) -> str:
    """Return a line where a network holds constants of a normalization and its first layer gets another; else empty.

    Constants for each channel alone count: single numbers are often of noise.
    """
    claims = [it for it in held(module) if len(it.constants.mean) > 1 and _buffers(it)]
    found = at_first_layer(module, channels, size) if claims else None
    if found is None or any(same(it.constants, found) for it in claims):
        return ""
    return (
        f"{type(claims[0].holder).__name__} holds {claims[0].constants} ({claims[0].names}) and its first layer gets "
        f"pixels with {found}; unless it was trained so, leave the normalization to it: model.mean=[0] model.std=[1]"
    )


def _buffers(it: Held) -> bool:
    return set(it.names.split(" and ")) <= {name for name, _ in it.holder.named_buffers(recurse=False)}


def _has_weights(layer: nn.Module) -> bool:
    return any(p.dim() > 1 for p in layer.parameters(recurse=False))

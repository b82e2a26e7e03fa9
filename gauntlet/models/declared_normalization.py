"""Networks that declare a normalization, and which one their pixels really get: measured, whoever does it.

timm writes the constants of its authors into `pretrained_cfg` (once `default_cfg`) of a network, transformers into
preprocessor_config.json beside the weights; the networks of this package keep what they read as `expects`. A network
that is run without them is silently another, weaker one.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gauntlet.models.wrapped import Wrapped

TOLERANCE = 0.02
"""By which constants may differ: less than those of any two projects do."""

LOW, HIGH = 0.25, 0.75
"""Levels of the two uniform images that show what happens to pixels; a resize or a crop leaves them uniform."""


class Constants(NamedTuple):
    """A normalization: mean and standard deviation for each channel, [C]."""

    mean: Tensor
    std: Tensor

    def __str__(self) -> str:
        mean, std = (", ".join(f"{float(v):.3g}" for v in values) for values in self)
        return f"mean [{mean}], std [{std}]"


def missing_normalization(module: nn.Module, run: Callable[[Tensor], object], channels: int, size: int) -> list[str]:
    """Return a line for each network inside that declares a normalization and gets another one, or none.

    Args:
        module: of a pipeline.
        run: the pipeline, from images [B, channels, size, size]; called where a network inside declares one.
    """
    lines = []
    for network, source, declared in declaring(module):
        found = measured(run, network, channels, size, len(declared.mean))
        if found is not None and not same(found, declared):
            lines.append(
                f"{type(network).__name__} declares {declared} ({source}) and gets pixels with {found}; unless it was "
                "trained so, set model.mean and model.std to what it declares"
            )
    return lines


def declaring(module: nn.Module) -> Iterator[tuple[nn.Module, str, Constants]]:
    """Yield the networks inside that declare a normalization, the outermost alone, with where and which."""
    for network in module.modules():
        if isinstance(network, Wrapped) and (expects := network.expects) is not None:
            if constants := _constants(expects.mean, expects.std):
                yield network.model, expects.source, constants
            return
        for source in ("pretrained_cfg", "default_cfg"):
            config = getattr(network, source, None)
            if isinstance(config, Mapping) and (constants := _constants(config.get("mean"), config.get("std"))):
                yield network, source, constants
                return
        processor = _processor(network)
        if constants := _constants(processor.get("image_mean"), processor.get("image_std")):
            yield network, "preprocessor_config.json", constants
            return


@torch.no_grad()
def measured(
    run: Callable[[Tensor], object], network: nn.Module, channels: int, size: int, planes: int
) -> Constants | None:
    """Return the normalization of the pixels that reach a network; None where they reach it in no such way."""
    seen: list[Tensor] = []
    hook = network.register_forward_pre_hook(lambda _, args, named: seen.extend(_images(args, named)), with_kwargs=True)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        levels = torch.tensor([LOW, HIGH], device=device).view(2, 1, 1, 1)
        run(levels.expand(2, channels, size, size).contiguous())
    except Exception:  # of the network itself: the checks of the forward say it
        return None
    finally:
        hook.remove()
    if not seen or seen[0].dim() != 4 or seen[0].shape[:2] != (2, planes):
        return None
    low, high = seen[0].float().mean((2, 3)).cpu()
    slope = (high - low) / (HIGH - LOW)
    if not bool((slope.abs() > 1e-6).all()):
        return None
    return Constants(LOW - low / slope, 1 / slope)


def _images(args: tuple[Any, ...], named: Mapping[str, Any]) -> Iterator[Tensor]:
    yield from (value for value in (*args, *named.values()) if isinstance(value, Tensor))


def _constants(mean: Any, std: Any) -> Constants | None:
    try:
        found = Constants(*(torch.tensor([float(v) for v in values]) for values in (mean, std)))
    except (TypeError, ValueError):
        return None
    plain = bool((found.mean == 0).all() and (found.std == 1).all())
    return None if plain or len(found.mean) != len(found.std) else found


def _processor(network: nn.Module) -> Mapping[str, Any]:
    """Return the configuration of the image processor beside a network of transformers; empty without one."""
    place = getattr(getattr(network, "config", None), "_name_or_path", None)
    if not isinstance(place, str) or not place:
        return {}
    try:
        config = json.loads((Path(place) / "preprocessor_config.json").read_text())
    except (OSError, ValueError):
        return {}
    usual = isinstance(config, Mapping) and config.get("do_normalize", True) and config.get("do_rescale", True)
    return config if usual and abs(config.get("rescale_factor", 1 / 255) * 255 - 1) < 1e-3 else {}


def same(one: Constants, other: Constants) -> bool:
    """Return whether two normalizations are the same, one value standing for all channels."""
    return all(bool(((a - b).abs() < TOLERANCE).all()) for a, b in zip(one, other, strict=True))

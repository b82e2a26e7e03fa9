"""A network of the user's own, made by a function in a file of theirs."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from gauntlet.errors import UserError, described
from gauntlet.models.wrapped import Wrapped
from gauntlet.system.code_file import function_of, located


class FileModel(Wrapped):
    """What a function or class in a Python file gives, behind the preprocessing that is asked for.

    Args:
        source: `path/to/net.py:make`. The function is called with those of classes, channels and size that it takes,
            and with `arguments`.
        classes: number of logits.
        channels: of the images.
        size: height and width of the images.
        arguments: more arguments of the function, by name.
        mean, std, resize, interpolation, crop: as in `gauntlet.models.wrapped.Wrapped`; the defaults leave pixels as
            they are, for a network that normalizes by itself.

    Raises:
        UserError: no such file or function, or it fails, or gives no network.
    """

    def __init__(
        self,
        source: str,
        classes: int,
        channels: int = 3,
        size: int = 32,
        arguments: dict[str, Any] | None = None,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        resize: int | None = None,
        interpolation: str = "bilinear",
        crop: int | None = None,
    ) -> None:
        path, function = located(source, "model.source")
        shared = {"classes": classes, "num_classes": classes, "channels": channels, "size": size}
        made = _called(path, function, shared, dict(arguments or {}))
        super().__init__(made, mean, std, channels, resize, interpolation, crop)


def _called(path: Path, function: str, shared: dict[str, Any], arguments: dict[str, Any]) -> nn.Module:
    """Return what the function gives, called with those of the shared arguments that it takes by name."""
    make = function_of(path, function)
    try:
        taken = inspect.signature(make).parameters
    except (TypeError, ValueError):
        taken = {}  # type: ignore[assignment]
    given = {name: value for name, value in shared.items() if name in taken} | arguments
    try:
        made = make(**given)
    except UserError:
        raise
    except Exception as cause:
        raise UserError(f"{function} of {path} fails ({described(cause)}); fix it, or give model.arguments") from cause
    if not isinstance(made, nn.Module):
        raise UserError(
            f"{function} of {path} gives a {type(made).__name__}, not a torch.nn.Module; return the network"
        )
    return made

"""A network of the user's own, made by a function in a file of theirs."""

import importlib.util
import inspect
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from gauntlet.errors import UserError, described, some
from gauntlet.models.wrapped import Wrapped


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
        path, function = located(source)
        shared = {"classes": classes, "num_classes": classes, "channels": channels, "size": size}
        made = _called(path, function, shared, dict(arguments or {}))
        super().__init__(made, mean, std, channels, resize, interpolation, crop)


def located(source: str) -> tuple[Path, str]:
    """Return the file and the name of the function in `path/to/net.py:make`.

    Raises:
        UserError: the text is none of that form, or there is no such file.
    """
    place, colon, function = source.rpartition(":")
    if not colon or not place.endswith(".py") or not function.isidentifier():
        raise UserError(f"model.source={source} must read path/to/file.py:function; say which function makes the model")
    path = Path(place).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}; check the path before the colon in model.source={source}")
    return path.resolve(), function


def imported(path: Path) -> ModuleType:
    """Return the module of a file, which may import what lies beside it.

    Raises:
        UserError: it fails.
    """
    name = path.stem
    other = sys.modules.get(name)
    if other is not None and getattr(other, "__file__", None) == str(path):
        return other
    if other is not None or not name.isidentifier() or importlib.util.find_spec(name) is not None:
        name = f"{name}_{sha256(str(path).encode()).hexdigest()[:8]}"  # it is called like another module
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as cause:
        del sys.modules[name]
        raise UserError(f"{path} cannot be run ({described(cause)}); mend it, or install what it imports") from cause
    return module


def _called(path: Path, function: str, shared: dict[str, Any], arguments: dict[str, Any]) -> nn.Module:
    """Return what the function gives, called with those of the shared arguments that it takes by name."""
    module = imported(path)
    make = getattr(module, function, None)
    if not callable(make):
        own = [
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
        ]
        raise UserError(f"{path} has no function {function}; it has {some(own, 8) or 'none'}")
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
        raise UserError(f"{function} of {path} fails ({described(cause)}); mend it, or give model.arguments") from cause
    if not isinstance(made, nn.Module):
        raise UserError(
            f"{function} of {path} gives a {type(made).__name__}, not a torch.nn.Module; return the network"
        )
    return made

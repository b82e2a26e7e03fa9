"""Functions in a Python file of the user's, named as `path/to/file.py:function`. Imports no torch."""

import importlib.util
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from gauntlet.errors import UserError, described, some


def located(source: str, key: str) -> tuple[Path, str]:
    """Return the file and the name of the function in `path/to/net.py:make`.

    Args:
        key: of the configuration, for messages.

    Raises:
        UserError: the text is none of that form, or there is no such file.
    """
    place, colon, function = source.rpartition(":")
    if not colon or not place.endswith(".py") or not function.isidentifier():
        raise UserError(f"{key}={source} must read path/to/file.py:function; say which function it is")
    path = Path(place).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}; check the path before the colon in {key}={source}")
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
        raise UserError(f"{path} cannot be run ({described(cause)}); fix it, or install what it imports") from cause
    return module


def function_of(path: Path, function: str) -> Callable[..., Any]:
    """Return a function of a file.

    Raises:
        UserError: the file fails, or has no such function.
    """
    module = imported(path)
    found = getattr(module, function, None)
    if callable(found):
        made: Callable[..., Any] = found
        return made
    own = [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
    ]
    raise UserError(f"{path} has no function {function}; it has {some(own, 8) or 'none'}")

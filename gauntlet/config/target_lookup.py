"""Look up what a `_target_` of a configuration names, and what can be given to it."""

import dataclasses
import importlib
import inspect
import typing
from typing import Any

from gauntlet.errors import UserError, reason


def locate(name: str, path: str) -> Any:
    """Return the object at a dotted name.

    Raises:
        UserError: it cannot be imported or does not exist.
    """
    pieces = name.split(".")
    for cut in range(len(pieces) - 1, 0, -1):
        module = ".".join(pieces[:cut])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as cause:
            if cause.name and (module == cause.name or module.startswith(f"{cause.name}.")):
                continue
            raise UserError(f"{path}._target_={name} cannot be imported: {cause}; install what it needs") from None
        except (SyntaxError, ImportError) as cause:
            raise UserError(f"{path}._target_={name} cannot be imported: {reason(cause)}; fix {module}") from cause
        try:
            for piece in pieces[cut:]:
                found = getattr(found, piece)
        except AttributeError:
            break
        return found
    raise UserError(f"{path}._target_={name} does not exist; check the name and that its folder is on PYTHONPATH")


def parameters_of(target: Any) -> tuple[dict[str, Any], bool]:
    """Return the names and type hints of what a target takes, and whether it takes anything else."""
    function = target.__init__ if inspect.isclass(target) and not dataclasses.is_dataclass(target) else target
    try:
        hints = typing.get_type_hints(target if dataclasses.is_dataclass(target) else function)
    except (NameError, TypeError):
        hints = {}
    if dataclasses.is_dataclass(target):
        return {
            f.name: hints.get(f.name, Any)
            for f in dataclasses.fields(target)
            if f.init and not f.metadata.get("internal")
        }, False
    signature = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    names = [n for n, p in signature.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and n != "self"]
    return {name: hints.get(name, Any) for name in names}, open_ended

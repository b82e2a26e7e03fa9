"""The attack of a Python call: by name with options, an object of this package, or one of another library."""

import dataclasses
import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gauntlet.api.composition import Composition, node_of, package_of
from gauntlet.api.inputs import InputError
from gauntlet.attacks.foreign import kind_of, proposer
from gauntlet.threat_model.threat import Threat


def add_attack(asked: Composition, attack: Any, knobs: Mapping[str, Any]) -> None:
    """Add the attack with its options.

    Raises:
        InputError: options for an object, or what is no attack.
    """
    if isinstance(attack, str):
        asked.words.append(f"attack={attack}")
        if knobs:
            asked.nodes["attack"] = dict(knobs)
        return
    if knobs:
        raise InputError(
            f"{next(iter(knobs))}= is no argument of evaluate, and options of an attack object belong to it"
        )
    if dataclasses.is_dataclass(attack) and not isinstance(attack, type) and hasattr(attack, "needs"):
        asked.nodes["attack"] = node_of(attack)
        asked.names["attack"] = type(attack).__name__.lower()
        asked.trusted += package_of(attack)
        return
    proposer(attack, Threat("linf", 1.0))  # refuses what is no attack
    kind, content = kind_of(attack), content_of(attack)
    asked.words.append("attack=foreign")
    asked.nodes["attack"] = {"kind": kind, "content": content}
    asked.names["attack"] = re.sub(r"[^\w.+-]+", "_", kind).strip("._") or "function"
    asked.objects[content] = attack


def content_of(attack: Any) -> str:
    """Return the digest of what a foreign attack is: the source of its class or function, and its settings."""
    total = hashlib.sha256("\n".join(_described(attack)).encode())
    return f"sha256:{total.hexdigest()}"


def _described(thing: Any, depth: int = 4) -> list[str]:
    """Return lines for an object: a function by its source, another by its class and its plain attributes."""
    if isinstance(thing, functools.partial):
        inner = (thing.func, *thing.args, *(thing.keywords[key] for key in sorted(thing.keywords)))
        return ["partial", *sorted(thing.keywords), *(line for each in inner for line in _described(each, depth - 1))]
    if isinstance(thing, bool | int | float | str | type(None)):
        return [repr(thing)]
    if isinstance(thing, Tensor):
        return [hashlib.sha256(thing.detach().cpu().double().contiguous().numpy().tobytes()).hexdigest()]
    if isinstance(thing, list | tuple):
        return [line for each in thing for line in _described(each, depth - 1)]
    if isinstance(thing, torch.nn.Module) or depth == 0:
        return [type(thing).__qualname__]  # the network it was built around; what it attacks is the victim
    if inspect.isroutine(thing) or inspect.isclass(thing):
        closed = inspect.getclosurevars(thing).nonlocals if inspect.isfunction(thing) else {}
        return [_source(thing), *(f"{k}={line}" for k in sorted(closed) for line in _described(closed[k], depth - 1))]
    held = sorted(getattr(thing, "__dict__", {}).items())
    return [_source(type(thing)), *(f"{k}={line}" for k, value in held for line in _described(value, depth - 1))]


def _source(thing: Callable[..., Any]) -> str:
    name = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
    try:
        return f"{name.rpartition('.')[2]}\n{inspect.getsource(thing)}"
    except (OSError, TypeError):
        return name

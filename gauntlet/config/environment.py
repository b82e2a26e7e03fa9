"""Values that a configuration takes from the environment (`${oc.env:NAME}`): used as they are, recorded as typed.

A variable may hold a secret, and records are published. So a record says `${oc.env:NAME}`, never what stood there.
Imports no torch.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

from gauntlet.errors import UserError

_quoting: ContextVar[bool] = ContextVar("_quoting", default=False)

_typed: dict[str, str] = {}
"""Text that came out of the environment -> what was typed for it, in the last configuration."""

_typed_nodes: dict[str, Any] = {}
"""Node that holds a value of the environment, a number too, by its content -> the node as it was typed."""

_VARIABLE = re.compile(r"\$\{oc\.env:\s*(\w+)\s*(,[^${}]*)?\}")


def _env(*words: Any) -> Any:
    """Return a variable of the environment, or, while a configuration is quoted, what was typed for it."""
    return f"${{oc.env:{','.join(map(str, words))}}}" if _quoting.get() else oc.env(*words)


OmegaConf.register_new_resolver("oc.env", _env, replace=True)


def unresolved(text: str) -> str:
    """Return what a message of OmegaConf about a missing value means, with the fix; empty: another message."""
    if "Missing mandatory value" in text:
        key = re.search(r"full_key: (\S+)", text)
        return f"it has no default; write {key[1] if key else 'KEY'}=VALUE"
    if missing := re.search(r"Environment variable '([^']*)' not found", text):
        name = missing[1]
        return f"the environment has no variable {name}; export it, or give a default: ${{oc.env:{name},DEFAULT}}"
    if unknown := re.search(r"Unsupported interpolation type (\S+)", text):
        return f"there is no interpolation ${{{unknown[1]}:...}}; write the value itself"
    return "it refers to itself; write the value itself" if "Recursive interpolation detected" in text else ""


@contextmanager
def _quoted() -> Iterator[None]:
    before = _quoting.set(True)
    try:
        yield
    finally:
        _quoting.reset(before)


def recorded(composed: DictConfig, checked: DictConfig) -> Any:
    """Return the checked configuration with what was typed in place of values from the environment.

    From here on `as_typed` speaks of this configuration, and of none before it in this process.

    Args:
        composed: as Hydra composed it, with its interpolations.
        checked: the same, resolved and checked.
    """
    _typed.clear()
    _typed_nodes.clear()
    with _quoted():
        quoted = OmegaConf.to_container(composed, resolve=True)
    return _overlaid(OmegaConf.to_container(checked), quoted)


def _overlaid(value: Any, quoted: Any) -> Any:
    if isinstance(quoted, str):
        if "${oc.env:" not in quoted:
            return value
        if isinstance(value, str):
            _typed[value] = quoted
        return quoted
    if isinstance(value, dict) and isinstance(quoted, dict):
        found = {key: _overlaid(item, quoted.get(key)) for key, item in value.items()}
        if found != value:
            _typed_nodes[_content(value)] = quoted
        return found
    if isinstance(value, list) and isinstance(quoted, list) and len(value) == len(quoted):
        return [_overlaid(item, other) for item, other in zip(value, quoted, strict=True)]
    return value


def _content(node: Mapping[str, Any]) -> str:
    """Return the content of a node as text, whatever its classes are called."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items() if key != "_target_"}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return json.dumps(plain(node), sort_keys=True, default=str)


def as_typed(value: Any) -> Any:
    """Return plain values with what was typed in place of what came out of the environment: any text,
    and whatever stands in a node of the configuration."""
    if isinstance(value, Mapping):
        if (quoted := _typed_nodes.get(_content(value))) is not None:
            return _overlaid(dict(value), quoted)
        return {key: as_typed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_typed(item) for item in value]
    return _typed.get(value, value) if isinstance(value, str) else value


def refuse_foreign(config: Any, allowed: Sequence[str], place: str = "") -> None:
    """Refuse a recorded configuration that would read the environment, or anything else, as it is resolved.

    Args:
        config: plain values; somebody else may have written them.
        allowed: variables that the one who asks lets it read.
        place: full key of the value.

    Raises:
        UserError: with the key, and how to allow a variable.
    """
    pairs: Iterator[tuple[str, Any]] = iter(())
    if isinstance(config, Mapping):
        pairs = ((f"{place}.{key}" if place else str(key), item) for key, item in config.items())
    elif isinstance(config, list):
        pairs = ((f"{place}[{number}]", item) for number, item in enumerate(config))
    for key, item in pairs:
        refuse_foreign(item, allowed, key)
    if not isinstance(config, str):
        return
    for match in _VARIABLE.finditer(config):
        if match[1] not in allowed:
            raise UserError(
                f"{place} comes from the environment; set {match[1]} as for the run and add --env {match[1]}"
            )
    if "${" in _VARIABLE.sub("", config):
        raise UserError(f"{place} holds ${{...}}, which is not resolved for evidence; run again with the value itself")

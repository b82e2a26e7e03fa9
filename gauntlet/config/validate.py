"""Checks a composed configuration before any work starts.

Plain YAML takes `attack.steps=abc` and `+attack.foo=1` without a word. Here each node that has a `_target_` is merged
onto a schema made from the fields of that class (or the parameters of that function): unknown keys and values of the
wrong type are refused with their full key, and numbers take the type of their field, so that 1 and 1.0 mean one config.
"""

import dataclasses
import difflib
import functools
import importlib.util
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import gauntlet
from gauntlet.config.code_files import check_code_file
from gauntlet.config.components import choices, declared
from gauntlet.config.environment import unresolved
from gauntlet.config.field_types import typed, typed_field
from gauntlet.config.target_lookup import locate, parameters_of
from gauntlet.errors import UserError, printable, reason
from gauntlet.evidence.stable_names import ROOTS as OLD_PACKAGES
from gauntlet.evidence.stable_names import place_of
from gauntlet.knobs import check_knob
from gauntlet.threat_model.threat import Threat

PACKAGE = "gauntlet"
"""The package whose code a configuration may call; users name theirs in `trusted_packages`."""

log = logging.getLogger(__name__)

_PACKAGE_FOLDER = Path(gauntlet.__file__).resolve().parent
CHECKOUT = _PACKAGE_FOLDER.parent if (_PACKAGE_FOLDER / "attacks").is_symlink() else None
"""The checkout that the package is in; None where it is installed."""

ROOT: dict[str, Any] = {
    "seed": int, "heads": str, "access": str, "draws": int | None, "checkpoint": str | None, "runs_dir": str,
    "trusted_packages": list[str], "expected_clean": float | None, "estimate": bool | None,
    **dict.fromkeys(("checkpoint_key", "name", "paper", "authors", "link", "extra_data"), str | None),
}  # fmt: skip
"""Types of the values at the root."""

NULLABLE = ("attack", "certifier", "stop_when")
GROUPS = ("dataset", "model", "threat", "defense", *NULLABLE, "protocol", "recipe", "runtime", "logger")
"""Nodes at the root; each has a `_target_`. Of attack and certifier one is null."""

SEEDS = 2**63
"""Seeds lie below."""

_RESERVED = {"_target_", "_recursive_", "_convert_"}


def checked(cfg: DictConfig, known: Sequence[str]) -> DictConfig:
    """Return the configuration, resolved, checked and with values of the declared types.

    Args:
        cfg: as composed by Hydra.
        known: the keys that the root has.

    Raises:
        UserError: unknown or missing key, wrong type, missing value, or a `_target_` that may not be called or does not
            exist.
    """
    unknown = [str(key) for key in cfg if key not in known]
    if unknown:
        raise UserError(f"unknown option {unknown[0]}{_near(unknown[0], known)}")
    try:
        resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as cause:
        place = f"{cause.full_key!s}: " if cause.full_key else ""
        raise UserError(f"{place}{unresolved(str(cause)) or reason(cause)}") from None
    assert isinstance(resolved, DictConfig)
    _check_root(resolved, known)
    trusted = (PACKAGE, *resolved.get("trusted_packages", []))
    _check_plain(resolved, "")
    for key in resolved:
        _check_nodes(str(key), resolved[key], trusted, _Field(str(key), None, root=key in GROUPS))
    _check_finite(resolved, "")
    budgets = OmegaConf.select(resolved, "dataset.budgets")
    for norm in budgets if isinstance(budgets, DictConfig) else ():
        if norm not in Threat.NORMS:
            raise UserError(f"unknown option dataset.budgets.{norm!s}{_near(str(norm), Threat.NORMS)}")
    return resolved


def build(node: Any, **extra: Any) -> Any:
    """Instantiate a checked node; the message of a constructor's UserError comes through alone."""
    try:
        return instantiate(node, _convert_="all", **extra)
    except InstantiationException as cause:
        inner: BaseException | None = cause
        while inner is not None:
            if isinstance(inner, UserError):
                raise inner from None
            inner = inner.__cause__ or inner.__context__
        root = cause.__cause__ or cause
        raise UserError(f"{node.get('_target_')} cannot be built: {reason(root)}") from cause


def _check_root(cfg: DictConfig, known: Sequence[str]) -> None:
    """Refuse missing and unfit values of the root, and give them their types."""
    for key in known:
        if key in ("attack", "certifier"):
            cfg.setdefault(key, None)  # Hydra drops a choice of null
        if key not in cfg:
            raise UserError(f"{key} is missing; leave it out of the command to have its default")
    if isinstance(cfg.get("trusted_packages"), str):
        cfg.trusted_packages = [cfg.trusted_packages]
    for key in known:
        value = cfg[key]
        if key in NULLABLE and value is None:
            continue
        if key in GROUPS and not (isinstance(value, DictConfig) and "_target_" in value):
            raise UserError(f"{key} must be a choice (see --help) or a node with a _target_")
        if key in ROOT and (new := typed(key, value, ROOT[key])) is not value:
            cfg[key] = new
    if "certifier" in known and (cfg.attack is None) == (cfg.certifier is None):
        raise UserError("one record attacks or certifies: give attack=NAME, certifier=NAME, or both to run.py")
    if "seed" in known and not 0 <= cfg.seed < SEEDS:
        raise UserError(f"seed={cfg.seed} is out of range; take a whole number from 0 to {SEEDS - 1}")


def _check_plain(node: Any, path: str) -> None:
    """Refuse an interpolation that came out of another: it would be read anew, and differently, after the check."""
    if isinstance(node, DictConfig | ListConfig):
        keys: Iterable[Any] = node if isinstance(node, DictConfig) else range(len(node))
        for key in keys:
            place = f"{path}.{key!s}" if path else str(key)
            if OmegaConf.is_interpolation(node, key):
                raise UserError(f"{place} holds ${{...}} after all is resolved; write the value itself")
            _check_plain(node[key], place)


def _check_finite(node: Any, path: str) -> None:
    """Refuse what JSON, and so the manifest of a run, cannot hold."""
    if isinstance(node, DictConfig):
        for key in node:
            _check_finite(node[key], f"{path}.{key!s}" if path else str(key))
    elif isinstance(node, ListConfig):
        for number, item in enumerate(node):
            _check_finite(item, f"{path}[{number}]")
    elif isinstance(node, float) and not math.isfinite(node):
        raise UserError(f"{path}={node} must be finite")


class _Field(NamedTuple):
    """Where a node stands: the field of the node above, and its type hint; or a key of the root."""

    name: str
    hint: Any
    root: bool = False


def _check_nodes(path: str, value: Any, trusted: Sequence[str], field: _Field) -> None:
    """Check a node and those in it, from above. Lists and plain mappings in between belong to the field."""
    if isinstance(value, DictConfig):
        hints: dict[str, Any] | None = None
        if "_target_" in value:
            hints = _check_node(path, value, trusted, field)
        for key in value:
            inside = field if hints is None else _Field(str(key), hints.get(str(key), Any))
            _check_nodes(f"{path}.{key!s}", value[key], trusted, inside)
    elif isinstance(value, ListConfig):
        for number, item in enumerate(value):
            _check_nodes(f"{path}[{number}]", item, trusted, field)


def _check_node(path: str, node: DictConfig, trusted: Sequence[str], field: _Field) -> dict[str, Any]:
    """Check what a node names and what it gives to it; return the type hints of its fields."""
    name = node["_target_"] = _place(path, str(node["_target_"]), trusted)
    package = name.split(".")[0]
    if any(piece.startswith("__") for piece in name.split(".")):
        raise UserError(f"{path}._target_={name} is an internal of Python; name a class or function")
    target = locate(name, path)
    home = str(getattr(target, "__module__", None) or "nothing").split(".")[0]
    if not callable(target) or home not in trusted:
        raise UserError(
            f"{path}._target_={name} is not code of {package} but of {home}; name a class or function of it"
        )
    if package == PACKAGE:
        _check_declared(path, name, target, field)
        check_code_file(path, node, trusted)
    parameters, open_ended = parameters_of(target)
    given = {str(key): node[key] for key in node if key not in _RESERVED}
    for key in given:
        if key in ("_args_", "_partial_") or (key not in parameters and not open_ended):
            raise UserError(f"unknown option {path}.{key}{_near(key, parameters)}{_own(path, name)}")
    knobs = {each.name: each for each in dataclasses.fields(target)} if dataclasses.is_dataclass(target) else {}
    for key, hint in parameters.items():
        if key in given:
            new = typed_field(f"{path}.{key}", given[key], hint, target)
            if key in knobs:
                check_knob(f"{path}.{key}", knobs[key], new)
            if new is not given[key]:  # containers are converted in place, and assigning copies them
                node[key] = new
    return parameters


def _check_declared(path: str, name: str, target: Any, field: _Field) -> None:
    """Refuse code of this package that is no component for this place."""
    if field.root:
        if name not in choices(field.name):
            raise UserError(f"{path}._target_={name} is no {field.name} of gauntlet; --help lists the choices")
    elif not declared(field.name, name, target, field.hint):
        raise UserError(f"{path}._target_={name} is no component of gauntlet for {field.name}; see conf/ for those")


def _place(path: str, name: str, trusted: Sequence[str]) -> str:
    """Return where the code of a `_target_` stands today; refuse what is outside the trusted packages."""
    package = name.split(".")[0]
    if package in trusted:
        return name
    if package not in OLD_PACKAGES:
        raise UserError(
            f"{path}._target_={name} is outside gauntlet's packages; if you trust it, add trusted_packages=[{package}]"
        )
    place, own = place_of(name), _users_own(package)
    if own:
        raise UserError(
            f"{path}._target_={name}: there is a package {package} of yours ({own}), and {name} is also the old name "
            f"of {place}; for yours add trusted_packages=[{package}], for ours write {place}"
        )
    _warn_of_old_name(name, place)
    return place


def _users_own(package: str) -> str:
    """Return where a package of that name would be imported from; empty: nowhere, or from this checkout."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return ""
    places = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec else []
    return next((place for place in places if place and not _ours(place)), "")


def _ours(place: str) -> bool:
    """Return whether a file or folder belongs to this package, or to the checkout that it is in."""
    return Path(place).resolve().is_relative_to(CHECKOUT) if CHECKOUT else False


@functools.cache
def _warn_of_old_name(name: str, place: str) -> None:
    log.warning("%s is an old name of %s; it goes on working", printable(name), place)


def _near(key: str, names: Sequence[str] | dict[str, Any]) -> str:
    if close := difflib.get_close_matches(key, list(names), 1):
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(names)}" if names else ""


def _own(path: str, name: str) -> str:
    """Return how a network of the user's is named; `model._target_` alone leaves the options of the shipped model."""
    if path != "model" or name.split(".")[0] == PACKAGE:
        return ""
    return f"; for a network of yours write model=wrapped model.network._target_={name}, or model=FILE.py:FUNCTION"

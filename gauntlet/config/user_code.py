"""Digest the user's own code: a run of changed code is another run. Code of this package is not covered."""

import ast
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

from gauntlet.config.code_files import code_files
from gauntlet.config.validate import PACKAGE
from gauntlet.evidence.stable_names import place_of

INSTALLED = ("site-packages", "dist-packages")


def code_digest(config: Any, modules: Sequence[nn.Module] = ()) -> str:
    """Return a digest of the user's code that a configuration names; empty where it names none.

    It covers the source of the modules of every `_target_` outside this package, and of all that these import from the
    same package or from files beside it, found by their import statements: never by what happens to be loaded, so that
    a run has the same digest alone and within a sweep. Of an installed package it covers every source file. Of built
    networks of the user's classes it covers the numbers, words and tensors that are attributes and no weights. Texts
    with a separator of folders are left out: they may be places.

    Args:
        config: plain values or nodes of OmegaConf.
        modules: networks that were built from it.
    """
    plain = OmegaConf.to_container(config) if isinstance(config, DictConfig | ListConfig) else _plainly(config)
    files = sorted({Path(file).expanduser().resolve() for file in code_files(plain)})
    names = sorted({name for name in map(place_of, _targets(config)) if name.split(".")[0] != PACKAGE})
    if not names and not files:
        return ""
    digest = hashlib.sha256()
    sources = _closure(names, files)
    for name, path in sorted(sources.items()):
        digest.update(f"{name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    packages = {name.split(".")[0] for name in [*names, *sources]}
    for line in sorted(line for module in modules for line in attribute_lines(module, packages)):
        digest.update(line.encode())
    return f"sha256:{digest.hexdigest()}"


def _targets(node: Any) -> Iterator[str]:
    """Yield every `_target_` of a configuration."""
    if isinstance(node, DictConfig | ListConfig):
        node = OmegaConf.to_container(node)
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for value in node:
            yield from _targets(value)


def _plainly(config: Any) -> Any:
    """Return a mapping of nodes as plain values."""
    if isinstance(config, Mapping):
        return {
            key: OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value
            for key, value in config.items()
        }
    return config


def _closure(names: Sequence[str], files: Sequence[Path]) -> dict[str, Path]:
    """Return the source files, by module, of dotted names and files, and of what they import from beside them."""
    found: dict[str, Path] = {file.name if file.suffix != ".py" else file.stem: file for file in files}
    roots = {top: _root(top) for top in {name.split(".")[0] for name in names}}
    waiting: list[tuple[str, Path | None]] = [(name, roots[name.split(".")[0]]) for name in names]
    for file in files:
        if file.suffix == ".py":
            waiting += [(other, file.parent) for other in _imports(file.stem, file)]
    while waiting:
        name, root = waiting.pop()
        top = name.split(".")[0]
        if root is None or top == PACKAGE:
            continue
        if set(root.parts) & set(INSTALLED):
            if top in roots and top not in found:
                found |= {str(path.relative_to(root)): path for path in _installed(root, top)} | dict(_files(top, root))
            continue
        for module, path in _files(name, root):
            if module not in found:
                found[module] = path
                waiting += [(other, root) for other in _imports(module, path)]
    return found


def _root(package: str) -> Path | None:
    """Return the folder that a package or module is imported from; None where it has no source."""
    loaded = sys.modules.get(package)
    spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec(package)
    places = [*(spec.submodule_search_locations or ())] if spec else []
    if places:
        return Path(places[0]).resolve().parent
    return Path(spec.origin).resolve().parent if spec and spec.origin and spec.has_location else None


def _installed(root: Path, package: str) -> list[Path]:
    """Return every source file of an installed package, of which nothing is parsed: there may be thousands."""
    return [path for path in (root / package).rglob("*.py") if path.is_file()]


def _files(name: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the modules on the way to a dotted name, as far as it names files: packages, then the module itself."""
    place, pieces = root, name.split(".")
    for number, piece in enumerate(pieces):
        place = place / piece
        module = ".".join(pieces[: number + 1])
        for path in (place / "__init__.py", place.with_name(f"{piece}.py")):
            if path.is_file():
                yield module, path
        if not place.is_dir():
            return


def _imports(module: str, path: Path) -> Iterator[str]:
    """Yield the dotted names that a source file imports, anywhere in it; none where it cannot be parsed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def attribute_lines(network: nn.Module, packages: set[str]) -> Iterator[str]:
    """Yield a line for each number, word and tensor that a user's modules in a network hold beside their weights."""
    for place, module in network.named_modules():
        if type(module).__module__.split(".")[0] not in packages:
            continue
        kept = {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}
        for name, value in [*kept.items(), *module.named_buffers(recurse=False)]:
            if (said := _plain(value)) is not None:
                yield f"{place}.{name}={said}\n"


def _plain(value: Any) -> str | None:
    """Return numbers and words, and lists of them, as text, a tensor as a digest; None for others, and for places."""
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta:
        data = value.detach().cpu().contiguous()
        content = data.reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{data.dtype}{list(data.shape)}{hashlib.sha256(content).hexdigest()}"
    if isinstance(value, bool | int | float) or (isinstance(value, str) and os.sep not in value):
        return repr(value)
    if isinstance(value, list | tuple):
        parts = [_plain(item) for item in value]
        return None if None in parts else f"[{', '.join(map(str, parts))}]"
    return None

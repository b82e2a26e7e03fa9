"""Read named tensors from safetensors files or from PyTorch's own format, never code."""

import argparse
import pathlib
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gauntlet.errors import UserError, reason, some

HARMLESS: list[Any] = [
    np.dtype,
    np.ndarray,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((np.zeros(0).__reduce__()[0], f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    argparse.Namespace,
    *(
        (pathlib.PurePosixPath if "Posix" in kind else pathlib.PureWindowsPath, f"{module}.{kind}")
        for module in ("pathlib", "pathlib._local")
        for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
]
"""What training scripts save beside weights and what runs no code: NumPy's numbers, arrays and the state of its random
numbers, options of argparse, paths. NumPy moved its core to _core, Python its paths to _local."""


class WeightSet(NamedTuple):
    """One set of weights in a file."""

    place: str  # its key in the file, keys of inner mappings joined by dots; empty: the file is the state dict
    tensors: dict[str, Tensor]


class Content(NamedTuple):
    """What a file of weights holds."""

    sets: list[WeightSet]  # at least one, no two equal
    beside: list[str]  # other keys of the file
    ordered: bool  # whether the tensors stand in the order of the network that they were saved from


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of a file of PyTorch: a state dict alone, or the only one it holds.

    Raises:
        UserError: as for `read_sets`, or the file holds several sets of weights.
    """
    return chosen(path, read_sets(path), None).tensors


def read_sets(path: Path) -> Content:
    """Return every set of weights that a safetensors file or a file of PyTorch holds.

    The content of the file decides, not its ending. Numbers and texts beside the weights are passed over.

    Raises:
        UserError: no such file, no regular file, empty, cut short, a web page, another format, Python objects, or no
            state dict.
    """
    opening = _opening(path)
    if _is_safetensors(opening):
        try:
            return Content([WeightSet("", safetensors.torch.load_file(path))], [], ordered=False)
        except Exception as cause:  # SafetensorError, OSError, KeyError for a dtype that torch lacks
            raise _damaged(path, cause) from None
    if not opening:
        raise UserError(f"{path} is empty; copy or download it again")
    if opening.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the weights; run git lfs pull in its repository")
    if opening.lstrip().startswith(b"<"):
        raise UserError(f"{path} is a web page, not a checkpoint; download the file itself")
    if not opening.startswith((b"PK", b"\x80")):
        raise UserError(f"{path} is neither safetensors nor a PyTorch checkpoint; give a file of one of the two")
    return _content(path, _unpickled(path))


def chosen(path: Path, content: Content, key: str | None) -> WeightSet:
    """Return the set of weights that is meant: the only one, or the one at the key.

    Raises:
        UserError: there are several and no key, or none at the key.
    """
    places = [each.place for each in content.sets]
    if key is not None:
        if key in places:
            return content.sets[places.index(key)]
        known = f"it has {some(places, 8)}" if any(places) else "it is one state dict by itself; leave the option out"
        raise UserError(f"{path} holds no weights under checkpoint_key={key}; {known}")
    if len(places) > 1:
        raise UserError(
            f"{path} holds {len(places)} sets of weights: {some(places, 8)}; say which one is meant, such as "
            f"checkpoint_key={places[0]}"
        )
    return content.sets[0]


def metadata(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file; empty for a file that has none. Raises UserError like `read`."""
    if not _is_safetensors(_opening(path)):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as cause:
        raise _damaged(path, cause) from None


def _opening(path: Path) -> bytes:
    """Return the first bytes of a regular file."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{path} is no regular file; give a file of weights")
        with path.open("rb") as file:
            return file.read(64)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a checkpoint; give the file inside it") from None
    except OSError as cause:
        raise UserError(f"{path} cannot be read ({cause.strerror or cause}); check its path and permissions") from None


def _is_safetensors(opening: bytes) -> bool:
    return opening[8:9] == b"{"  # eight bytes of length, then JSON


def _unpickled(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.serialization.safe_globals(HARMLESS):
                content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:  # a damaged pickle can raise anything
        text = str(cause)
        if "TorchScript" in text:
            raise UserError(
                f"{path} is a TorchScript archive; run it with model=torchscript, or save its state_dict()"
            ) from None
        if culprit := re.search(r"GLOBAL ([\w.]+)", text):
            raise UserError(
                f"{path} holds Python objects such as {culprit[1]}, and loading them could run code; "
                "save only the tensors: torch.save(model.state_dict(), FILE)"
            ) from None
        if "Weights only load failed" in text:
            raise UserError(
                f"{path} is cut short or damaged, or a pickle of Python objects, which could run code; "
                "copy it again, or save only the tensors: torch.save(model.state_dict(), FILE)"
            ) from None
        raise _damaged(path, cause) from None
    return content


def _content(path: Path, content: object) -> Content:
    """Return the state dicts in what a file holds, at any depth of mappings and lists."""
    if not isinstance(content, Mapping | list):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    found = _state_dicts(content, "")
    if not found:
        odd = [name for name, value in _items(content) if not isinstance(value, Mapping | list) or value]
        if not odd:
            raise UserError(f"{path} holds no weights; save model.state_dict()")
        if isinstance(content, list):
            raise UserError(f"{path} holds a list without a state dict; save model.state_dict()")
        raise UserError(f"{path} is not a state dict: no tensor under {some(odd)}; save model.state_dict()")
    sets: list[WeightSet] = []
    for place, tensors in found.items():
        if not any(_equal(tensors, other.tensors) for other in sets):
            sets.append(WeightSet(place, tensors))
    used = {each.place.split(".")[0] for each in sets}
    beside = [] if used == {""} else [name for name, _ in _items(content) if name not in used]
    return Content(sets, beside, ordered=True)


def _items(content: Mapping[Any, Any] | list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a mapping or a list with their names."""
    pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
    yield from ((str(name), value) for name, value in pairs)


def _state_dicts(content: Mapping[Any, Any] | list[Any], place: str) -> dict[str, dict[str, Tensor]]:
    """Return the state dicts below a mapping by their places: what holds tensors by name, apart from optimizers."""
    named = content if isinstance(content, Mapping) else {}
    tensors = {name: value for name, value in named.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if any("." in name for name in tensors):
        return {place: tensors}
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in _items(content):
        if isinstance(value, Mapping | list) and not re.search("optim|sched|scaler", name):
            found |= _state_dicts(value, f"{place}.{name}" if place else name)
    return found or ({place: tensors} if tensors else {})  # beside weights, a lone tensor is a statistic


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two state dicts hold the same tensors."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _damaged(path: Path, cause: BaseException) -> UserError:
    return UserError(f"{path} is cut short or damaged ({reason(cause)}); copy or download it again")

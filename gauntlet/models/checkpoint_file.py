"""Read named tensors from safetensors files or from PyTorch's own format, never code."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gauntlet.errors import UserError, reason, some

SCALARS: list[Any] = [
    np.dtype,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""What a NumPy scalar is made of when it is unpickled; NumPy moved it from core to _core."""


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of a file of PyTorch: a state dict alone, or the only one it holds.

    The content of the file decides, not its ending. Numbers and texts beside the weights are passed over.

    Raises:
        UserError: no such file, no regular file, empty, cut short, a web page, another format, Python objects, no state
            dict, or several.
    """
    opening = _opening(path)
    if _is_safetensors(opening):
        try:
            return safetensors.torch.load_file(path)
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
    return _state_dict(path, _unpickled(path))


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
            with torch.serialization.safe_globals(SCALARS):
                content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:  # a damaged pickle can raise anything
        text = str(cause)
        if "TorchScript" in text:
            raise UserError(f"{path} is a TorchScript archive; save its state_dict() instead") from None
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


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    """Return the only state dict in what a file holds, at any depth of mappings."""
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    found = _state_dicts(content, "")
    if not found:
        odd = [str(name) for name, value in content.items() if not isinstance(value, Mapping) or value]
        if not odd:
            raise UserError(f"{path} holds no weights; save model.state_dict()")
        raise UserError(f"{path} is not a state dict: no tensor under {some(odd)}; save model.state_dict()")
    (place, first), *others = found.items()
    if different := [name for name, state in others if not _equal(first, state)]:
        names = [place, *different]
        raise UserError(
            f"{path} holds {len(names)} sets of weights: {some(names, 5)}; save the one that you mean alone: "
            f"torch.save(torch.load(FILE)[{names[0].split('.')[0]!r}], OTHER)"
        )
    return first


def _state_dicts(content: Mapping[Any, Any], place: str) -> dict[str, dict[str, Tensor]]:
    """Return the state dicts below a mapping by their places: what holds tensors by name, apart from optimizers."""
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if any("." in name for name in tensors):
        return {place: tensors}
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and isinstance(name, str) and not re.search("optim|sched|scaler", name):
            found |= _state_dicts(value, f"{place}.{name}" if place else name)
    return found or ({place: tensors} if tensors else {})  # beside weights, a lone tensor is a statistic


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two state dicts hold the same tensors."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _damaged(path: Path, cause: BaseException) -> UserError:
    return UserError(f"{path} is cut short or damaged ({reason(cause)}); copy or download it again")

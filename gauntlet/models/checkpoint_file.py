"""What a file of weights holds: named tensors, from safetensors or from PyTorch's own format, never code."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gauntlet.errors import UserError, reason

WRAPPERS = ("state_dict", "model_state_dict", "model", "ema")
"""Where training scripts keep the state dict in their files; the first that is there counts."""


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a state dict saved by PyTorch, alone or inside one of `WRAPPERS`.

    The content of the file decides, not its ending.

    Raises:
        UserError: no such file, empty, cut short, a web page, another format, Python objects, no state dict.
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


def some(names: list[str], shown: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _opening(path: Path) -> bytes:
    try:
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
    while isinstance(content, Mapping):
        wrapped = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not wrapped:
            break
        content = wrapped[0]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    if not content:
        raise UserError(f"{path} holds no weights; save model.state_dict()")
    odd = [str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd:
        raise UserError(f"{path} is not a state dict: no tensor under {some(odd)}; save model.state_dict()")
    return dict(content)


def _damaged(path: Path, cause: BaseException) -> UserError:
    return UserError(f"{path} is cut short or damaged ({reason(cause)}); copy or download it again")

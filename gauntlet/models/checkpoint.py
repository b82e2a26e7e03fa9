"""Weights of a model: strict loading, atomic saving, and the digest that records carry."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models import checkpoint_file
from gauntlet.models.checkpoint_file import some
from gauntlet.system.atomic_file import write_atomically

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What data parallelism, compilation and training frameworks put before every name."""

COUNTER = "num_batches_tracked"
"""Of batch norms: absent from old files, without effect in evaluation."""


def load(model: nn.Module, path: str | Path) -> str:
    """Put the weights of a file into the model, all of them or none.

    Args:
        model: changed in place; keeps its device and dtypes.
        path: a file as `gauntlet.models.checkpoint_file.read` takes it. Prefixes that every name shares do not matter, neither
            in the file nor in the model.

    Returns:
        The digest of the model afterwards.

    Raises:
        UserError: the file cannot be read, its names, shapes or kinds of numbers are not those of the model, or its
            weights are not finite.
    """
    path = Path(path).expanduser()
    found = _bare(checkpoint_file.read(path))
    state = _tensors(model)
    expected = _bare(state)
    for name, value in expected.items():
        if name.endswith(COUNTER) and name not in found:
            found[name] = torch.zeros_like(value)
    _check_names(path, found, expected)
    _check_shapes(path, found, expected)
    _check_values(path, found, expected)
    model.load_state_dict({full: found[name] for full, name in zip(state, expected, strict=True)}, strict=True)
    return digest(model)


def save(model: nn.Module, path: str | Path, metadata: dict[str, str]) -> str:
    """Write the state dict as safetensors, whole or not at all, and return its digest.

    Args:
        model: on any device.
        path: of the file; missing folders are made.
        metadata: to read back with `read_metadata`.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in _bare(_tensors(model)).items()}
    write_atomically(Path(path).expanduser(), safetensors.torch.save(tensors, metadata))
    return digest(model)


def digest(model: nn.Module) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor of the state dict, sorted by name: "sha256:<hex>".

    Prefixes that every name shares are left out, so that a compiled or wrapped model has the digest of the bare one.
    """
    total = hashlib.sha256()
    for name, value in sorted(_bare(_tensors(model)).items()):
        dtype = str(value.dtype).removeprefix("torch.")
        total.update(json.dumps([name, dtype, list(value.shape)]).encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{total.hexdigest()}"


def read_metadata(path: str | Path) -> dict[str, str]:
    """What `save` was given; empty for a file that has none. Raises UserError for a missing or damaged file."""
    return checkpoint_file.metadata(Path(path).expanduser())


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, in the same order, without the prefixes that all their names share."""
    bare = dict(tensors)
    while bare and (prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in bare)), "")):
        bare = {name.removeprefix(prefix): value for name, value in bare.items()}
    return bare


def _check_names(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    parts = [f"missing {some(missing)}"] * bool(missing) + [f"unexpected {some(unexpected)}"] * bool(unexpected)
    if parts:
        raise UserError(f"{path} is of another model: {'; '.join(parts)}; choose the model that it was saved from")


def _check_shapes(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    odd = [name for name in expected if found[name].shape != expected[name].shape]
    if not odd:
        return
    if counts := _class_counts(odd, found, expected):
        raise UserError(
            f"{path}: the checkpoint has {counts[0]} classes, the model has {counts[1]}; "
            "choose the data set that it was trained on, or another checkpoint"
        )
    shapes = [f"{name} is {list(found[name].shape)}, not {list(expected[name].shape)}" for name in odd]
    raise UserError(f"{path} is of another model: {some(shapes, 1)}; choose the model that it was saved from")


def _class_counts(
    odd: list[str], found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[int, int] | None:
    """Classes in the file and in the model, if nothing but the number of outputs of the last layer differs."""
    layer = list(expected)[-1].rpartition(".")[0]
    if odd != [name for name in expected if name.rpartition(".")[0] == layer]:
        return None
    if any(found[name].shape[1:] != expected[name].shape[1:] or found[name].dim() == 0 for name in odd):
        return None
    return found[odd[0]].shape[0], expected[odd[0]].shape[0]


def _check_values(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, value in found.items():
        dtype = expected[name].dtype
        if value.is_floating_point() != dtype.is_floating_point:
            raise UserError(f"{path}: {name} is {value.dtype}, the model needs {dtype}; convert the file")
        if not bool(torch.isfinite(value.to(dtype)).all()):
            raise UserError(f"{path}: {name} holds NaN or infinite values; the training diverged, take another file")

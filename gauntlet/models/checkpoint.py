"""Load the weights of a model strictly, save them whole or not at all, and compute the digest that records carry."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from gauntlet.errors import UserError, some
from gauntlet.models import checkpoint_file
from gauntlet.system.atomic_file import write_atomically

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What data parallelism, compilation and training frameworks put before every name."""

FOREIGN = re.compile(r"n_averaged|(module\.|_orig_mod\.)*(criterion|loss_fn)\..+")
"""What training leaves beside the weights: the counter of averaged models, and the tensors of the loss."""

COUNTER = "num_batches_tracked"
"""Of batch norms: absent from old files, without effect in evaluation."""


def load(model: nn.Module, path: str | Path) -> str:
    """Put the weights of a file into the model, all of them or none.

    Args:
        model: changed in place; keeps its device and dtypes.
        path: a file as `gauntlet.models.checkpoint_file.read` takes it. Prefixes that every name shares do not matter,
            neither in the file nor in the model; neither does what `FOREIGN` names.

    Returns:
        The digest of the model afterwards.

    Raises:
        UserError: the file cannot be read, its names, shapes or kinds of numbers are not those of the model, or its
            weights are not finite.
    """
    path = Path(path).expanduser()
    state = _tensors(model)
    expected = _bare(state)
    found = _matched(checkpoint_file.read(path), expected)
    tied = _tied(expected)
    for name, value in expected.items():
        if name in found:
            continue
        if name.endswith(COUNTER):
            found[name] = torch.zeros_like(value)
        elif same := next((other for other in tied[name] if other in found), None):
            found[name] = found[same]  # safetensors keeps one of several names of a tensor
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


def _matched(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file by the names of the model: without prefixes, and without what training left there.

    Where some names lack the prefix of all the weights, they keep their names, so that a message names them alone.
    """
    bare = _bare({name: value for name, value in found.items() if name in expected or not FOREIGN.fullmatch(name)})
    needed = {name for name in expected if not name.endswith(COUNTER)}
    inner = bare
    while any(name.startswith(PREFIXES) for name in inner) and not needed <= inner.keys():
        prefix = next(p for p in PREFIXES if any(name.startswith(p) for name in inner))
        inner = {name.removeprefix(prefix): value for name, value in inner.items() if name.startswith(prefix)}
        if needed <= inner.keys():
            others = {name: value for name, value in bare.items() if all(value is not v for v in inner.values())}
            return inner | others
    return bare


def _tied(tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return for each name the names of the same memory in the same shape."""
    places = {name: (v.data_ptr(), v.shape, v.stride(), v.dtype) for name, v in tensors.items() if v.numel()}
    groups: dict[Any, list[str]] = {}
    for name, place in places.items():
        groups.setdefault(place, []).append(name)
    return {name: groups[places[name]] if name in places else [] for name in tensors}


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

"""Load the weights of a model strictly, save them whole or not at all, and compute the digest that records carry."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from gauntlet.errors import UserError, some
from gauntlet.models import checkpoint_file
from gauntlet.models.checkpoint_constants import check_constants
from gauntlet.models.checkpoint_names import COUNTER, Match, bare, by_order, matches, nearest, tied
from gauntlet.system.atomic_file import write_atomically

BY_ORDER = "by_order"
"""The checkpoint key with which tensors are taken in their order, whatever their names."""


class Loaded(NamedTuple):
    """What became of the file."""

    digest: str  # of the model afterwards
    lines: list[str]  # what was loaded, renamed and left out, for the user


def load(model: nn.Module, path: str | Path, key: str | None = None) -> str:
    """Put the weights of a file into the model, all of them or none, and return the digest of the model.

    Arguments and errors are those of `load_reported`.
    """
    return load_reported(model, path, key).digest


def load_reported(model: nn.Module, path: str | Path, key: str | None = None) -> Loaded:
    """Put the weights of a file into the model, all of them or none, and say what was loaded, renamed and left out.

    Args:
        model: changed in place; keeps its device and dtypes.
        path: a file as `gauntlet.models.checkpoint_file.read_sets` takes it. Prefixes do not matter, neither in the
            file nor in the model; neither does what `FOREIGN` names. Names of a known layout are translated.
        key: which set of weights is meant where the file holds several; `by_order`, alone or after a key and a colon:
            tensors are taken in their order.

    Raises:
        UserError: the file cannot be read, holds several sets of weights and the key does not say which, its names,
            shapes or kinds of numbers are not those of the model, its constants of normalization are others, or its
            weights are not finite.
    """
    path = Path(path).expanduser()
    for module in model.modules():
        if callable(check := getattr(module, "check_file", None)):
            check(path)  # what a network knows of a file by its name
    state = _tensors(model)
    expected = bare(state)
    content = checkpoint_file.read_sets(path)
    place, ordered = _parsed(key)
    weights, prefix = _set_of(path, content, place)
    if ordered:
        match = _in_order(path, content, weights, expected)
    else:
        match = _one(path, matches(weights.tensors, expected), prefix) or nearest(weights.tensors, expected)
    found = _completed(match.found, expected)
    _check_names(path, found, match, expected, weights if content.ordered else None)
    _check_shapes(path, found, expected)
    _check_values(path, found, expected)
    lines = _told(path, content, weights, match, ordered) + check_constants(path, match, model)
    model.load_state_dict({full: found[name] for full, name in zip(state, expected, strict=True)}, strict=True)
    return Loaded(digest(model), lines)


def save(model: nn.Module, path: str | Path, metadata: dict[str, str]) -> str:
    """Write the state dict as safetensors, whole or not at all, and return its digest.

    Args:
        model: on any device.
        path: of the file; missing folders are made.
        metadata: to read back with `read_metadata`.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in bare(_tensors(model)).items()}
    write_atomically(Path(path).expanduser(), safetensors.torch.save(tensors, metadata))
    return digest(model)


def digest(model: nn.Module) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor of the state dict, sorted by name: "sha256:<hex>".

    Prefixes that every name shares are left out, so that a compiled or wrapped model has the digest of the bare one.
    """
    total = hashlib.sha256()
    for name, value in sorted(bare(_tensors(model)).items()):
        dtype = str(value.dtype).removeprefix("torch.")
        total.update(json.dumps([name, dtype, list(value.shape)]).encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{total.hexdigest()}"


def read_metadata(path: str | Path) -> dict[str, str]:
    """What `save` was given; empty for a file that has none. Raises UserError for a missing or damaged file."""
    return checkpoint_file.metadata(Path(path).expanduser())


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _parsed(key: str | None) -> tuple[str | None, bool]:
    """Return which set of weights a key names, and whether its tensors are taken in their order."""
    if key is None:
        return None, False
    place, colon, rest = key.rpartition(":")
    if rest == BY_ORDER:
        return (place if colon else None), True
    return key, False


def _set_of(path: Path, content: checkpoint_file.Content, key: str | None) -> tuple[checkpoint_file.WeightSet, str]:
    """Return the set of weights at a key, and what of the key names a prefix within it."""
    if key is not None:
        for weights in content.sets:
            inner = key.removeprefix(weights.place).removeprefix(".") if key.startswith(weights.place) else None
            if inner and any(name.startswith(f"{inner}.") for name in weights.tensors):
                return weights, f"{inner}."
    return checkpoint_file.chosen(path, content, key), ""


def _one(path: Path, found: list[Match], prefix: str) -> Match | None:
    """Return the only match, or the one whose names begin as the key says; None without any.

    Raises:
        UserError: there are several.
    """
    if prefix:
        found = [match for match in found if match.prefix.startswith(prefix)]
    if len(found) > 1:
        names = [match.prefix.rstrip(".") or "names without a prefix" for match in found]
        raise UserError(
            f"{path} holds {len(found)} sets of weights: {some(names, 8)}; say which one is meant, such as "
            f"checkpoint_key={found[-1].prefix.rstrip('.')}, or save it alone"
        )
    return found[0] if found else None


def _in_order(
    path: Path, content: checkpoint_file.Content, weights: checkpoint_file.WeightSet, expected: Mapping[str, Tensor]
) -> Match:
    if not content.ordered:
        raise UserError(
            f"{path} is a safetensors file, which keeps no order of its tensors; by_order needs one of PyTorch"
        )
    match = by_order(weights.tensors, expected)
    if match is None:
        raise UserError(f"{path} does not fit the model by order and shape either; choose the model it was saved from")
    return match


def _completed(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with counters that old files lack, and with the other names of tied ones."""
    whole, same = dict(found), tied(expected)
    for name, value in expected.items():
        if name in whole:
            continue
        if name.endswith(COUNTER):
            whole[name] = torch.zeros_like(value)
        elif other := next((other for other in same[name] if other in whole), None):
            whole[name] = whole[other]  # safetensors keeps one of several names of a tensor
    return whole


def _told(
    path: Path,
    content: checkpoint_file.Content,
    weights: checkpoint_file.WeightSet,
    match: Match,
    ordered: bool,
) -> list[str]:
    """Return what was loaded, renamed and left out."""
    text = f"{path.name}: {len(match.found)} tensors" + (f" of {weights.place}" if weights.place else "")
    text += f", without the prefix {match.prefix}" if match.prefix else ""
    text += ", taken in their order, whatever their names" if ordered else ""
    if match.layout:
        text += f", renamed from the layout of {match.layout.name}"
    left = [*content.beside, *(each.place for each in content.sets if each is not weights)]
    inner = sorted({name.split(".")[0] if "." in name else name for name in match.beside})
    if left or inner:
        text += f"; left out: {some([*left, *inner], 8)}"
    return [text] + ([f"{path.name}: {match.layout.note}"] if match.layout and match.layout.note else [])


def _check_names(
    path: Path,
    found: Mapping[str, Tensor],
    match: Match,
    expected: Mapping[str, Tensor],
    ordered: checkpoint_file.WeightSet | None,
) -> None:
    """Refuse a file that lacks names or has others. ordered: the weights, where their order is that of a network."""
    missing = [name for name in expected if name not in found]
    parts = [f"missing {some(missing)}"] * bool(missing)
    parts += [f"unexpected {some(match.unexpected)}"] * bool(match.unexpected)
    if not parts:
        return
    way = "choose the model that it was saved from"
    if ordered is not None and by_order(ordered.tensors, expected):
        way = (
            "its tensors fit by order and shape, which does not prove that they mean the same; if you know that they "
            f"do, add checkpoint_key={f'{ordered.place}:' * bool(ordered.place)}{BY_ORDER}"
        )
    elif missing and all(name.startswith("last.0.") for name in missing) and not match.unexpected:
        way = "it is a network without a batch norm before its last layer: take model=preact_resnet18_cifar"
    near = match.layout is not None and 2 * len(match.found) > len(expected)
    layout = f" (in the layout of {match.layout.name})" if match.layout and near else ""
    raise UserError(f"{path} is of another model{layout}: {'; '.join(parts)}; {way}")


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

"""Match the names of the tensors in a file with those of a model: prefixes, known layouts, and order where asked."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gauntlet.models.checkpoint_layouts import LAYOUTS, Layout

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What data parallelism, compilation and training frameworks put before every name."""

FOREIGN = re.compile(r"n_averaged|(module\.|_orig_mod\.)*(criterion|loss_fn)\..+")
"""What training leaves beside the weights: the counter of averaged models, and the tensors of the loss."""

CONSTANT = re.compile(r"(?:.*\.)?(?:new_)?(mean|mu|std|sigma)")
"""Constants of a normalization, as other projects store them beside the weights."""

COUNTER = "num_batches_tracked"
"""Of batch norms: absent from old files, without effect in evaluation."""


@dataclass(frozen=True)
class Match:
    """How the names of a file and of a model go together.

    Attributes:
        found: tensors of the file by the names of the model; not all, where they do not fit.
        prefix: what the file has before every name of these.
        layout: of the file; None: its names are the model's.
        unexpected: names of the file that the model should have and has not.
        beside: names of the file that do not matter.
        constants: constants of a normalization in the file.
    """

    found: dict[str, Tensor]
    prefix: str = ""
    layout: Layout | None = None
    unexpected: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)


def bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, in the same order, without the prefixes of `PREFIXES` that all their names share."""
    found = dict(tensors)
    while found and (prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in found)), "")):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def tied(tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return for each name the names of the same memory in the same shape."""
    places = {name: (v.data_ptr(), v.shape, v.stride(), v.dtype) for name, v in tensors.items() if v.numel()}
    groups: dict[Any, list[str]] = {}
    for name, place in places.items():
        groups.setdefault(place, []).append(name)
    return {name: groups[places[name]] if name in places else [] for name in tensors}


def matches(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[Match]:
    """Return every way in which a file has all that a model needs; more than one: it holds several sets of weights.

    Ways to the same tensors count once. The model's own names go before known layouts.

    Args:
        tensors: of the file.
        expected: of the model, without the prefixes that its names share.
    """
    same = tied(expected)
    for layout, theirs in _namings(expected):
        whole: list[Match] = []
        for prefix in _prefixes(tensors, theirs):
            match = _match(tensors, theirs, prefix, layout)
            fits = all(
                name in match.found or name.endswith(COUNTER) or any(other in match.found for other in same[name])
                for name in expected
            )
            if fits and not any(_equal(match.found, other.found) for other in whole):
                whole.append(match)
        if whole:
            return whole
    return []


def nearest(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Match:
    """Return the way in which most names fit, to say what is wrong; with none, all names of the file are unexpected."""
    best = Match({})
    for layout, theirs in _namings(expected):
        for prefix in _prefixes(tensors, theirs):
            match = _match(tensors, theirs, prefix, layout)
            if len(match.found) > len(best.found):
                best = match
    return best if best.found else Match({}, unexpected=[n for n in bare(tensors) if not FOREIGN.fullmatch(n)])


def by_order(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Match | None:
    """Return the match of tensors that stand in the same order and have the same shapes, whatever their names."""
    ours = [name for name in expected if not name.endswith(COUNTER)]
    given = [name for name in tensors if not name.endswith(COUNTER) and not FOREIGN.fullmatch(name)]
    if len(given) != len(ours):
        given = [name for name in given if not CONSTANT.fullmatch(name)]
    fits = len(given) == len(ours) and all(
        tensors[g].shape == expected[o].shape for g, o in zip(given, ours, strict=True)
    )
    if not fits:
        return None
    used = set(given)
    constants = {n: v for n, v in tensors.items() if n not in used and CONSTANT.fullmatch(n)}
    beside = [n for n in tensors if n not in used and n not in constants and not n.endswith(COUNTER)]
    found = {o: tensors[g] for o, g in zip(ours, given, strict=True)}
    return Match(found, beside=beside, constants=constants)


def _namings(expected: Mapping[str, Tensor]) -> Iterator[tuple[Layout | None, dict[str, str]]]:
    """Yield each way to name the tensors of a model: a layout, and the model's name -> the name in it."""
    yield None, {name: name for name in expected}
    shared = _shared_prefix(list(expected))
    if shared:
        yield None, {name: name.removeprefix(shared) for name in expected}
    for layout in LAYOUTS:
        theirs = layout.theirs(name.removeprefix(shared) for name in expected)
        if any(other != name for name, other in theirs.items()):
            yield layout, {f"{shared}{name}": other for name, other in theirs.items()}


def _shared_prefix(names: list[str]) -> str:
    """Return the modules that every name begins with, such as `1.` of a network behind its normalization."""
    pieces = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for column in zip(*pieces, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return "".join(f"{piece}." for piece in shared)


def _prefixes(tensors: Mapping[str, Tensor], theirs: Mapping[str, str]) -> list[str]:
    """Return what stands in the file before one of the names that it is to hold, the empty prefix first."""
    needed = [name for name in theirs.values() if not name.endswith(COUNTER)]
    if not needed:
        return []
    anchors = {max(needed, key=len), min(needed, key=len)}
    found = {
        name.removesuffix(anchor)
        for anchor in anchors
        for name in tensors
        if name.endswith(anchor) and (name == anchor or name[: -len(anchor)].endswith("."))
    }
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _match(tensors: Mapping[str, Tensor], theirs: Mapping[str, str], prefix: str, layout: Layout | None) -> Match:
    found = {ours: tensors[prefix + name] for ours, name in theirs.items() if prefix + name in tensors}
    used = {prefix + name for name in theirs.values()}
    left = {name: value for name, value in tensors.items() if name not in used}
    constants = {name: value for name, value in left.items() if CONSTANT.fullmatch(name) and value.numel() <= 4}
    unexpected: list[str] = []
    beside: list[str] = []
    for name in left:
        if name in constants:
            continue
        inner = name.removeprefix(prefix)
        unused = layout is not None and layout.unused and re.fullmatch(layout.unused, inner)
        matters = name.startswith(prefix) and not FOREIGN.fullmatch(inner) and not unused
        (unexpected if matters else beside).append(name)
    return Match(found, prefix, layout, unexpected, beside, constants)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name] is other[name] or (one[name].shape == other[name].shape and torch.equal(one[name], other[name]))
        for name in one
    )

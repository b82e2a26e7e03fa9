"""Adversarial examples from a file of somebody else's, as an adversarial set that is scored like any other."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gauntlet.data.array_files import arrays_in, as_array
from gauntlet.data.dataset import Split
from gauntlet.errors import UserError, printable, some
from gauntlet.evidence.adversarial_set import AdversarialSet, Arrays
from gauntlet.evidence.digest import digest_of
from gauntlet.system.lock import sole_owner
from gauntlet.system.provenance import now
from gauntlet.threat_model.threat import Threat
from gauntlet.transfer.precomputed import threat_key

NAMES = ("x_adv", "adv", "z", "x", "images")
"""Names under which files hold adversarial examples, the first that is there."""

IDS = ("ids", "sample", "indices", "index")
"""The same of the ids of their samples."""

PART = 256
"""Samples of a part."""


@dataclass(frozen=True, eq=False)
class ForeignExamples:
    """Images of a file with the ids of their samples.

    Attributes:
        z: float32 [n, C, H, W].
        ids: int64 [n]; None: one for each image of the test set, in its order.
        digest: of the file.
        remarks: one line each, about how they were read.
    """

    z: NDArray[np.float32]
    ids: NDArray[np.int64] | None
    digest: str
    remarks: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, ids: Path | None, form: tuple[int, ...]) -> "ForeignExamples":
        """Return the examples of a .pt, .npy, .npz or .safetensors file; nothing in it is run.

        Args:
            ids: a file of ids; None: those within the file, if any.
            form: C, H, W of the images that they belong to.

        Raises:
            UserError: the file holds no such images.
        """
        found = arrays_in(path)
        numbers: Any = None
        if isinstance(found, Mapping):
            name = next((each for each in NAMES if each in found), "")
            if not name:
                raise UserError(
                    f"{path} holds {some(list(found)) or 'nothing'}; name the array of adversarial examples x_adv"
                )
            numbers = next((found[each] for each in IDS if each in found), None)
            found = found[name]
        if ids is not None:
            numbers = arrays_in(ids)
        z, remarks = _images(path, as_array(path, found), form)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(z, None if numbers is None else _ids(path, as_array(path, numbers), len(z)), digest, remarks)


def import_set(folder: Path, examples: ForeignExamples, split: Split, threat: Threat, origin: str) -> Path:
    """Write an adversarial set of the examples for the images of a split; return its folder.

    An image without an example has itself as its candidate, which breaks nothing.

    Args:
        folder: of all sets.
        origin: where the examples come from, in words.

    Raises:
        UserError: the number of examples or an id does not fit the split, or the set cannot be written.
    """
    place = _places(examples, split)
    key = {
        "stage": "imported",
        "sources": {
            origin.replace("/", "-")[:200]: {
                "victim": f"sha256:{examples.digest}",
                "weights": {},
                "defense": "elsewhere",
            }
        },
        "threat": threat_key(threat),
        "data": {"digest": split.digest(), "selection": split.selection()},
    }
    path = folder / digest_of([key, {} if examples.ids is None else examples.ids.tolist()])
    target = AdversarialSet(path)
    with sole_owner(path / "locks", "set", None):
        if not (path / "set.json").exists():
            for number, start in enumerate(range(0, len(split), PART)):
                target.write(number, _part(examples, split, range(start, min(start + PART, len(split))), place), 0.0)
            target.create(key | {"chunk": PART, "samples": len(split), "started": now()})
    return path


def _part(examples: ForeignExamples, split: Split, positions: range, place: dict[int, int]) -> Arrays:
    batch = split.read(list(positions))
    x = batch.x.float().numpy()
    z = x.copy()
    for row, sample in enumerate(batch.ids.tolist()):
        if sample in place:
            z[row] = examples.z[place[sample]]
    zeros = np.zeros(len(x), np.int64)
    unknown = np.full((len(x), 1), -1, np.int64)
    return {
        "sample": batch.ids.numpy(), "label": batch.y.numpy(), "x": x, "z": z,
        **dict.fromkeys(("forwards", "backwards", "zero_gradients", "bad_gradients"), zeros),
        "clean_pred": unknown, "pred": unknown,
    }  # fmt: skip


def _places(examples: ForeignExamples, split: Split) -> dict[int, int]:
    """Return sample -> row of its example."""
    if examples.ids is None:
        if len(examples.z) != len(split):
            raise UserError(
                f"there are {len(examples.z)} examples for {len(split)} images; give one for each image of the run, in "
                "its order, or their ids with --ids FILE"
            )
        return {int(sample): row for row, sample in enumerate(split.ids)}
    unknown = sorted(set(examples.ids.tolist()) - set(split.ids.tolist()))
    if unknown:
        raise UserError(f"the run has no sample {some(unknown)}; ids are those in its records")
    place = {int(sample): row for row, sample in enumerate(examples.ids)}
    if len(place) < len(examples.ids):
        raise UserError("an id is listed twice; import the second example of a sample from a file of its own")
    return place


def _images(path: Path, array: NDArray[Any], form: tuple[int, ...]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    remarks: tuple[str, ...] = ()
    last = (*form[1:], form[0])
    if array.shape[1:] == last and array.shape[1:] != form:
        array = array.transpose(0, 3, 1, 2)
        remarks = (f"{printable(path)} holds [n, H, W, C], taken as such",)
    if array.shape[1:] != form:
        raise UserError(f"{path} holds {list(array.shape)}; the images of the run are [n, {', '.join(map(str, form))}]")
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255), (*remarks, "8-bit pixels were divided by 255")
    if array.dtype.kind != "f":
        raise UserError(f"{path} holds images of type {array.dtype}; save floating point in [0, 1], or uint8")
    return np.ascontiguousarray(array, np.float32), remarks


def _ids(path: Path, array: NDArray[Any], count: int) -> NDArray[np.int64]:
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise UserError(
            f"{path}: ids of type {array.dtype} and shape {list(array.shape)} for {count} examples; give [{count}] "
            "whole numbers"
        )
    return array.astype(np.int64)

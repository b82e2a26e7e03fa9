"""Adversarial examples of an entry as pictures: the clean image, the adversarial one, and their difference."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gauntlet.errors import UserError
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.run_metadata import Run
from gauntlet.leaderboard.sample_verdicts import Find

LIMIT = 12
"""Examples on one page."""

GAIN = 10
"""Factor by which the difference is amplified; grey is no difference."""


@dataclass(frozen=True)
class Example:
    """One find with its pictures, PNG."""

    find: Find
    place: str
    clean: bytes
    adversarial: bytes
    difference: bytes


def examples(entry: Entry, damaged: list[str]) -> list[Example]:
    """Up to `LIMIT` finds, taken from the runs in turn, each sample once. Unreadable files go to `damaged` as lines."""
    return list(islice(_pictures(entry, damaged), LIMIT))


def _pictures(entry: Entry, damaged: list[str]) -> Iterator[Example]:
    taken: set[int] = set()
    for run, find in _in_turn([(line.run, line.finds) for line in entry.counted or entry.runs]):
        path = run.folder.adversarial_path(find.chunk)
        if find.sample in taken or not path.exists():
            continue
        try:
            pair = _load(run.folder, find)
        except (UserError, OSError, KeyError, IndexError, TypeError, ValueError):
            line = f"{run.place}/adversarial/{path.name} cannot be read; run the same command again to redo it"
            damaged += [] if line in damaged else [line]
            continue
        if pair is not None:
            taken.add(find.sample)
            x, z = pair
            yield Example(find, run.place, png(x), png(z), png(0.5 + GAIN * (z - x)))


def _in_turn(runs: Sequence[tuple[Run, tuple[Find, ...]]]) -> Iterator[tuple[Run, Find]]:
    for layer in zip_longest(*(finds for _, finds in runs)):
        yield from ((run, find) for (run, _), find in zip(runs, layer, strict=True) if find is not None)


def _load(run: RunFolder, find: Find) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return clean and adversarial image of a find, float32 [C, H, W]; None where the file does not hold it."""
    arrays, stages = run.read_staged_examples(find.chunk)
    stage = stages.index(find.stage) if find.stage in stages else -1
    rows = np.flatnonzero((arrays["sample"] == find.sample) & (arrays["stage"] == stage))
    if not len(rows):
        return None
    x, z = (np.asarray(arrays[name][int(rows[0])], np.float32) for name in ("x", "z"))
    if x.ndim != 3 or x.shape != z.shape or not x.size:
        raise ValueError("the images have no common shape")
    return x, z


def png(image: NDArray[Any]) -> bytes:
    """An image with pixels in [0, 1], [C, H, W], as PNG: three channels in colour, any other number as their mean."""
    pixels = np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    grey = pixels.mean(0).round().astype(np.uint8) if len(pixels) != 3 else None
    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)) if grey is None else grey).save(sink, "PNG")
    return sink.getvalue()

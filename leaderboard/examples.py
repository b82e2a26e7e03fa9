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
from gauntlet.leaderboard.run_metadata import AttackRun
from gauntlet.leaderboard.sample_verdicts import AdversarialExample
from gauntlet.metrics.display import class_name

LIMIT = 12
"""Examples on one page."""

GAIN = 10
"""Factor by which the difference is amplified; grey is no difference."""


@dataclass(frozen=True)
class ExamplePictures:
    """One adversarial example with its pictures, PNG. label, pred: classes in words."""

    record: AdversarialExample
    label: str
    pred: str
    place: str
    clean: bytes
    adversarial: bytes
    difference: bytes


def examples(entry: Entry, damaged: list[str]) -> list[ExamplePictures]:
    """Return up to `LIMIT` adversarial examples, taken from the runs in turn, each sample once. Unreadable files go to
    `damaged` as lines."""
    return list(islice(_pictures(entry, damaged), LIMIT))


def _pictures(entry: Entry, damaged: list[str]) -> Iterator[ExamplePictures]:
    taken: set[int] = set()
    for run, record in _in_turn([(line.run, line.examples) for line in entry.counted or entry.ended]):
        path = run.folder.adversarial_path(record.chunk)
        if record.sample in taken or not path.exists():
            continue
        try:
            pair = _load(run.folder, record)
        except (UserError, OSError, KeyError, IndexError, TypeError, ValueError):
            line = f"{run.place}/adversarial/{path.name} cannot be read; run the same command again to redo it"
            damaged += [] if line in damaged else [line]
            continue
        if pair is not None:
            taken.add(record.sample)
            x, z = pair
            names = run.manifest["dataset"].get("class_names", [])
            label, pred = (class_name(number, names) for number in (record.label, record.pred))
            yield ExamplePictures(record, label, pred, run.place, png(x), png(z), png(0.5 + GAIN * (z - x)))


def _in_turn(
    runs: Sequence[tuple[AttackRun, tuple[AdversarialExample, ...]]],
) -> Iterator[tuple[AttackRun, AdversarialExample]]:
    for layer in zip_longest(*(examples for _, examples in runs)):
        yield from ((run, record) for (run, _), record in zip(runs, layer, strict=True) if record is not None)


def _load(run: RunFolder, record: AdversarialExample) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return the clean and adversarial image of an adversarial example, float32 [C, H, W]; None where the file does not
    hold it."""
    arrays, stages = run.read_staged_examples(record.chunk)
    stage = stages.index(record.stage) if record.stage in stages else -1
    rows = np.flatnonzero((arrays["sample"] == record.sample) & (arrays["stage"] == stage))
    if not len(rows):
        return None
    x, z = (np.asarray(arrays[name][int(rows[0])], np.float32) for name in ("x", "z"))
    if x.ndim != 3 or x.shape != z.shape or not x.size:
        raise ValueError("the images have no common shape")
    return x, z


def png(image: NDArray[Any]) -> bytes:
    """Return an image with pixels in [0, 1], [C, H, W], as PNG: three channels in color, any other number as their
    mean.
    """
    pixels = np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    grey = pixels.mean(0).round().astype(np.uint8) if len(pixels) != 3 else None
    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)) if grey is None else grey).save(sink, "PNG")
    return sink.getvalue()

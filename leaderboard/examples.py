"""Adversarial examples of an entry as pictures: the clean image, the adversarial one, and their difference."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gauntlet.errors import UserError
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.entry import Entry, RunLine
from gauntlet.leaderboard.run_metadata import AttackRun
from gauntlet.leaderboard.sample_verdicts import AdversarialExample
from gauntlet.metrics.display import class_name

Image32 = NDArray[np.float32]

LIMIT = 24
"""Examples on one page."""


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


@dataclass(frozen=True)
class Gallery:
    """The examples of a page. scale: the change of a pixel that is drawn black or white; grey is no change."""

    pictures: tuple[ExamplePictures, ...]
    scale: float


def gallery(entry: Entry, damaged: list[str]) -> Gallery:
    """Return up to `LIMIT` adversarial examples, taken from the runs in turn, each sample once. Unreadable files go to
    `damaged` as lines.

    All differences of a page have one scale: eps, where the threat bounds each pixel by it, or the largest change that
    the page shows.
    """
    found = list(islice(_pairs(entry, damaged), LIMIT))
    bounded = entry.threat.norm == "linf" and not entry.threat.unbounded
    scale = entry.threat.radius if bounded else max((float(np.abs(z - x).max()) for _, _, x, z in found), default=1.0)
    return Gallery(tuple(_drawn(*each, scale or 1.0) for each in found), scale or 1.0)


def _drawn(run: AttackRun, record: AdversarialExample, x: Image32, z: Image32, scale: float) -> ExamplePictures:
    names = run.manifest["dataset"].get("class_names", [])
    label, pred = (class_name(number, names) for number in (record.label, record.pred))
    return ExamplePictures(record, label, pred, run.place, png(x), png(z), png(0.5 + (z - x) / (2 * scale)))


Pair = tuple[AttackRun, AdversarialExample, Image32, Image32]


def _pairs(entry: Entry, damaged: list[str]) -> Iterator[Pair]:
    """Yield adversarial examples whose images are on disk, clean and adversarial, of the runs in turn, each sample
    once.
    """
    taken: set[int] = set()
    waiting = [_of_run(line, taken, damaged) for line in entry.counted or entry.ended]
    while waiting:
        for run in tuple(waiting):
            found = next(run, None)
            if found is None:
                waiting.remove(run)
            else:
                yield found


def _of_run(line: RunLine, taken: set[int], damaged: list[str]) -> Iterator[Pair]:
    """Yield the examples of one run of samples that are not taken yet, and take them."""
    run = line.run
    for chunk, members in groupby(line.examples, lambda record: record.chunk):  # a file is decoded once
        path, records = run.folder.adversarial_path(chunk), list(members)
        if all(record.sample in taken for record in records) or not path.exists():
            continue
        try:
            pairs = _load(run.folder, chunk, records)
        except (UserError, OSError, KeyError, IndexError, TypeError, ValueError):
            damaged.append(f"{run.place}/adversarial/{path.name} cannot be read; run the same command again to redo it")
            continue
        for record, pair in zip(records, pairs, strict=True):
            if pair is not None and record.sample not in taken:
                taken.add(record.sample)
                yield run, record, *pair


def _load(run: RunFolder, chunk: int, records: Sequence[AdversarialExample]) -> list[tuple[Image32, Image32] | None]:
    """Return the clean and adversarial image of adversarial examples of one chunk, float32 [C, H, W]; None where the
    file does not hold one."""
    arrays, stages = run.read_staged_examples(chunk)
    found: list[tuple[Image32, Image32] | None] = []
    for record in records:
        stage = stages.index(record.stage) if record.stage in stages else -1
        rows = np.flatnonzero((arrays["sample"] == record.sample) & (arrays["stage"] == stage))
        if not len(rows):
            found.append(None)
            continue
        x, z = (np.array(arrays[name][int(rows[0])], np.float32) for name in ("x", "z"))  # copies: the rest is let go
        if x.ndim != 3 or x.shape != z.shape or not x.size:
            raise ValueError("the images have no common shape")
        found.append((x, z))
    return found


def png(image: NDArray[Any]) -> bytes:
    """Return an image with pixels in [0, 1], [C, H, W], as PNG: three channels in color, any other number as their
    mean.
    """
    pixels = np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    grey = pixels.mean(0).round().astype(np.uint8) if len(pixels) != 3 else None
    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)) if grey is None else grey).save(sink, "PNG")
    return sink.getvalue()

"""A few adversarial examples of a run as pictures, read back from its evidence."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow.compute as pc

from gauntlet.evidence.run_folder import RunFolder

SHOWN = 96
"""Smaller images are enlarged to at least so many pixels in height."""


@dataclass(frozen=True)
class Example:
    """One adversarial example.

    Attributes:
        sample, stage: its key in the records; label, clean_pred, pred, distance: of its row there.
        largest: greatest change of a pixel.
        clean, adversarial, difference: uint8 [H, W] or [H, W, 3]. A difference is grey where nothing changed and black
            or white where the pixel changed by `largest`.
    """

    sample: int
    stage: str
    label: int
    clean_pred: int
    pred: int
    distance: float
    largest: float
    clean: np.ndarray
    adversarial: np.ndarray
    difference: np.ndarray


def examples(run: RunFolder, stages: list[str], limit: int) -> list[Example]:
    """At most `limit` examples, of the first samples that broke; opens no more parts than that takes.

    Args:
        stages: of the manifest, "clean" first.
    """
    found: list[Example] = []
    for chunk in sorted(run.present()):
        if len(found) >= limit:
            break
        if run.adversarial_path(chunk).exists():
            found += islice(_of_chunk(run, chunk, stages[1:]), limit - len(found))
    return found


def _of_chunk(run: RunFolder, chunk: int, stages: list[str]) -> Iterator[Example]:
    """In the order of the samples; candidates that fooled nobody, which may be stored too, are no examples."""
    records = run.read_part(chunk)
    records = records.filter(records["broken"])
    arrays = run.read_examples(chunk)
    samples, numbers = arrays["sample"], arrays["stage"]
    for at in np.argsort(samples, kind="stable").tolist():
        sample, stage = int(samples[at]), stages[int(numbers[at])]
        match = pc.and_(pc.equal(records["sample"], sample), pc.equal(records["stage"], stage))
        rows = records.filter(match).to_pylist()
        if not rows:
            continue
        (row,) = rows
        x, z = arrays["x"][at], arrays["z"][at]
        largest = float(np.abs(z - x).max())
        yield Example(
            sample=sample,
            stage=stage,
            **{name: row[name] for name in ("label", "clean_pred", "pred", "distance")},
            largest=largest,
            clean=picture(x),
            adversarial=picture(z),
            difference=picture(0.5 + (z - x) / (2 * largest or 1.0)),
        )


def picture(x: np.ndarray) -> np.ndarray:
    """Return uint8 [H, W] or [H, W, 3] of an image float [C, H, W] in [0, 1]; small ones enlarged without smoothing.

    Images with other than three channels become their mean.
    """
    pixels = (
        np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8) if len(x) == 3 else np.rint(x.mean(0) * 255).astype(np.uint8)
    )
    factor = -(-SHOWN // x.shape[1])
    large = np.repeat(np.repeat(pixels, factor, axis=-2), factor, axis=-1)
    return large.transpose(1, 2, 0) if large.ndim == 3 else large

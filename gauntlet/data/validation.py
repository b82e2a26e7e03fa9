"""Refuse images, labels and scores that no evaluation can use, naming the first of them."""

from typing import Any

from torch import Tensor

from gauntlet.data.dataset import Dataset
from gauntlet.errors import UserError

MEMBERS = ("name", "classes", "channels", "size", "budgets", "split")
"""What a data set has; see `gauntlet.data.dataset.Dataset`."""


def data_set(made: Any) -> Dataset:
    """Return what a configuration made, if it is a data set.

    Raises:
        UserError: it is something else, such as the items of one.
    """
    missing = [name for name in MEMBERS if not hasattr(made, name)]
    if not missing:
        found: Dataset = made
        return found
    fix = "return a subclass of gauntlet.data.image_dataset.ImageSet"
    if hasattr(made, "__getitem__"):
        fix = "for items (image, label) take dataset=torch 'dataset.test={_target_: ...}'"
    raise UserError(f"dataset is a {type(made).__name__}, which has no {', '.join(missing)}; {fix}")


def check_images(ids: Tensor, x: Tensor, y: Tensor, classes: int, box: tuple[float, float] = (0.0, 1.0)) -> None:
    """Refuse pixels outside the box (or NaN) and labels outside the classes, naming the first sample."""
    low, high = x.flatten(1).amin(1), x.flatten(1).amax(1)
    bad = ~((low >= box[0]) & (high <= box[1]))
    if bad.any():
        first = int(bad.nonzero()[0])
        raise UserError(
            f"image {int(ids[first])} has pixels from {low[first]:.4g} to {high[first]:.4g}; they must lie in "
            f"[{box[0]:g}, {box[1]:g}] (put the normalization inside the model)"
        )
    wrong = (y < 0) | (y >= classes)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        what = f"image {int(ids[first])} has label {int(y[first])}"
        raise UserError(f"{what}, outside 0 to {classes - 1}; check dataset.classes")


def check_scores(scores: Tensor, ids: Tensor, classes: int) -> None:
    """Refuse scores of another number of classes, of a single class, or that are not finite."""
    if classes < 2:
        raise UserError("the data set has one class, so that nothing can be confused; give one with 2 or more")
    if scores.dim() != 2 or scores.shape[1] != classes:
        raise UserError(
            f"the model returns scores of shape {list(scores.shape[1:])} per image, the data set has {classes} "
            "classes; choose a model with as many"
        )
    bad = ~scores.isfinite().all(1)
    if bad.any():
        raise UserError(
            f"the model returns scores that are not finite for {int(bad.sum())} of {len(bad)} clean images (first: "
            f"image {int(ids[int(bad.nonzero()[0])])}); check its weights"
        )

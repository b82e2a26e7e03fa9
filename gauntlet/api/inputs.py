"""Images and labels of a Python caller: tensors and arrays, checked before any work."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gauntlet.data.decoding import MODES
from gauntlet.errors import UserError


class InputError(UserError, ValueError):
    """An argument that cannot be what is meant. The message is one line: what is wrong, then the remedy."""


def images_and_labels(x: Any, y: Any) -> tuple[Tensor, NDArray[np.int64]]:
    """Return images float32 [n, C, H, W] in [0, 1] on the host, and labels int64 [n].

    Args:
        x: a tensor or an array.
        y: labels.

    Raises:
        InputError: they are no images with labels.
    """
    if y is None:
        raise InputError("y is missing; give the labels, or a Dataset or DataLoader of pairs as x")
    images, labels = _tensor(x, "x"), _tensor(y, "y")
    check_images(images)
    if len(labels) != len(images):
        raise InputError(f"x holds {len(images)} images and y {len(labels)} labels; give one label for each image")
    return images.detach().to("cpu", torch.float32).contiguous(), class_numbers(labels)


def check_classes(labels: NDArray[np.int64], classes: int) -> None:
    """Refuse labels that are not those of a model with so many classes."""
    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and high < classes:
        return
    if low >= 1 and high == classes:
        raise InputError(
            f"labels go from {low} to {high}, and the model has {classes} classes, which are numbered from 0 to "
            f"{classes - 1}; give y - 1"
        )
    raise InputError(
        f"labels go from {low} to {high}, but the model has {classes} classes, 0 to {classes - 1}; number the classes "
        "of y as the model does"
    )


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError
        return torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"{name} is a {type(value).__name__}; give a tensor, an array, or as x a Dataset or DataLoader"
        ) from None


def check_images(x: Tensor) -> None:
    """Refuse what are no images [n, C, H, W] in [0, 1], with the remedy."""
    shape = list(x.shape)
    if x.dim() == 3:
        raise InputError(f"x has shape {shape}; grey images are [n, 1, H, W]: give x[:, None]")
    if x.dim() != 4:
        raise InputError(f"x has shape {shape}; images are [n, C, H, W]")
    if not x.numel():
        raise InputError(f"x has shape {shape} and holds no images; give one at least")
    if shape[1] not in MODES:
        fix = "x is [n, H, W, C]: give x.permute(0, 3, 1, 2)" if shape[3] in MODES else "1 or 3 channels are supported"
        raise InputError(f"x has shape {shape}, which would be images of {shape[1]} channels; {fix}")
    if shape[2] != shape[3]:
        raise InputError(f"x holds images of {shape[2]}x{shape[3]} pixels; give square ones")
    if not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.")
        raise InputError(f"x has type {kind}; pixels are floating point in [0, 1]: give x / 255 where white is 255")
    low, high = float(x.min()), float(x.max())
    if not bool(x.isfinite().all()):
        raise InputError(f"x holds NaN or infinite pixels, first in image {_first_odd(x)}; repair it or leave it out")
    if low < 0:
        raise InputError(
            f"x has pixels from {low:.4g} to {high:.4g}, as after a normalization; give pixels in [0, 1] and put the "
            "normalization into the model: torch.nn.Sequential(torchvision.transforms.Normalize(mean, std), model)"
        )
    if high > 1:
        fix = "divide by 255" if high > 2 else "bring them into [0, 1]"
        raise InputError(f"x has pixels from {low:.4g} to {high:.4g}; {fix}")


def _first_odd(x: Tensor) -> int:
    return int((~x.flatten(1).isfinite().all(1)).nonzero()[0])


def class_numbers(y: Tensor) -> NDArray[np.int64]:
    """Return labels int64 [n] of a tensor. Raises InputError where they are none."""
    if y.dim() != 1:
        fix = "give y.argmax(1)" if y.dim() == 2 and y.shape[1] > 1 else "give y.flatten()"
        raise InputError(f"y has shape {list(y.shape)}; labels are class numbers [n]: {fix}")
    if y.is_floating_point() or y.dtype == torch.bool:
        kind = str(y.dtype).removeprefix("torch.")
        raise InputError(f"y has type {kind}; labels are whole numbers: give y.long()")
    labels: NDArray[np.int64] = y.detach().cpu().numpy().astype(np.int64)
    return labels

"""Images of a Python caller that come one after the other: a Dataset, a DataLoader, a pipeline, a generator.

An item is an image with its label, or a batch of both, as a tuple or as a mapping; which it is, its own shape says.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from gauntlet.api.inputs import InputError, check_images, class_numbers
from gauntlet.data.given import MOST_BYTES
from gauntlet.data.in_memory import Arrays
from gauntlet.data.stream_rows import StreamPiece, StreamRows, read
from gauntlet.errors import UserError

IMAGES = ("image", "images", "img", "pixel_values", "x", "jpg", "jpeg", "png", "webp", "ppm", "pil")
LABELS = ("label", "labels", "fine_label", "y", "cls", "target", "targets", "class")
"""What mappings call an image and its class, the first that is there."""


def is_stream(x: Any) -> bool:
    """Return whether a caller's images come one after the other, with their labels."""
    if isinstance(x, Tensor | np.ndarray | list | tuple | str | bytes | Mapping) or hasattr(x, "__array__"):
        return False
    return isinstance(x, Iterable) or (hasattr(x, "__len__") and hasattr(x, "__getitem__"))


def stream(x: Any, limit: int | None) -> Arrays | StreamRows:
    """Return the images and labels of a stream, in its order: in memory where they are few, else read when needed.

    Args:
        x: see `is_stream`.
        limit: pairs that are read, at most; None: all.

    Raises:
        InputError: it gives no images with labels, or cannot be read a second time and would have to be.
    """
    kind = type(x).__name__
    steps = isinstance(x, DataLoader | IterableDataset) or not (hasattr(x, "__len__") and hasattr(x, "__getitem__"))

    def passes(start: int) -> Iterator[StreamPiece]:
        row = 0 if steps else start
        items: Iterable[Any] = x if steps else (x[number] for number in range(start, len(x)))
        for item in islice(items, None if limit is None else max(0, limit - row)):
            images, labels = _batch(item, kind, loader=isinstance(x, DataLoader))
            most = len(images) if limit is None else limit - row
            pixels = images[:most].detach().to("cpu", torch.float32).permute(0, 2, 3, 1)
            piece = StreamPiece(row, np.array(pixels.numpy(), order="C"), class_numbers(labels[:most]))
            yield piece
            row += len(piece.labels)
            if row == limit:
                return

    try:
        return read(passes, f"the {kind}", once=isinstance(x, Iterator), most=MOST_BYTES)
    except InputError:
        raise
    except UserError as cause:
        raise InputError(str(cause)) from None


def _batch(item: Any, kind: str, *, loader: bool) -> tuple[Tensor, Tensor]:
    """Return images [B, C, H, W] and labels [B] of one item. loader: whether it is a batch whatever its shape."""
    image, label = _pair(item, kind)
    many = isinstance(image, list | tuple)
    if many and not image:
        raise InputError(f"the {kind} gives a batch without images")
    images = torch.stack([_image(each, kind) for each in image]) if many else _image(image, kind)
    try:
        labels = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"the {kind} gives labels of type {type(label).__name__}; let it give class numbers") from None
    if not (loader or many or images.dim() == 4):
        images, labels = images[None], labels[None]
    check_images(images)
    if labels.dim() and len(labels) != len(images):
        raise InputError(f"the {kind} gives {len(images)} images with {len(labels)} labels; give one for each image")
    return images, labels


def _pair(item: Any, kind: str) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        keys = [next((key for key in names if key in item), None) for names in (IMAGES, LABELS)]
        if None in keys:
            raise InputError(
                f"the {kind} gives a mapping with {', '.join(map(str, item))}, which has no image or no label; let "
                "it give (image, label), or image and label by these names"
            )
        return item[keys[0]], item[keys[1]]
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise InputError(f"the {kind} gives a {type(item).__name__}; it must give (image, label)")
    return item[0], item[1]


def _image(image: Any, kind: str) -> Tensor:
    if isinstance(image, Image.Image):
        levels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
        return torch.from_numpy(levels.reshape(*levels.shape[:2], -1).copy()).permute(2, 0, 1).float() / 255
    if not isinstance(image, Tensor) and not hasattr(image, "__array__"):
        raise InputError(
            f"the {kind} gives images of type {type(image).__name__}; let it give tensors [C, H, W] in [0, 1], such as "
            "by transform=torchvision.transforms.ToTensor()"
        )
    return image if isinstance(image, Tensor) else torch.as_tensor(np.asarray(image))

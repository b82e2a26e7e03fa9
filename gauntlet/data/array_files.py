"""Images and labels as arrays in files: .npy, .npz, .pt and .safetensors. Nothing in a file is ever run."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from gauntlet.data.class_map import ClassMap
from gauntlet.data.image_dataset import ImageSet, Part
from gauntlet.data.in_memory import Arrays
from gauntlet.data.selection import hold_out
from gauntlet.errors import UserError, reason
from gauntlet.knobs import choice

ENDINGS = (".npy", ".npz", ".pt", ".pth", ".safetensors")
LAYOUTS = ("nchw", "nhwc")
COLORS = (1, 3)
"""Numbers of channels by which a layout is inferred from a shape."""


@dataclass(frozen=True, kw_only=True)
class ArrayFiles(ImageSet):
    """Images as one array, uint8 in 0 to 255 or floating point in [0, 1], and their labels, integers from 0.

    Args:
        path: the test images: a .npz, .pt or .safetensors file that holds `x` and `y`, or a file with the images alone.
        labels: the file of the test labels, where `path` holds the images alone; null: they are in `path`.
        train, train_labels: the same of the training images; null: there are none, so nothing can be trained. A tenth
            of them is held out for validation.
        x, y: the names of the two arrays within a file.
        layout: nchw, nhwc, or null: inferred from the shape, [n, C, H, W], [n, H, W, C] or, for grey images, [n, H, W].
        class_map: names of the classes, for reports: a file (.json, .txt, .csv), or `imagenet`.

    Raises:
        UserError: a file is missing, damaged or of another kind, lacks an array, or its arrays are no images with
            labels: another shape, another type, pixels outside the range, NaN.
    """

    path: str
    labels: str | None = None
    train: str | None = None
    train_labels: str | None = None
    x: str = "x"
    y: str = "y"
    layout: str | None = choice(None, LAYOUTS, optional=True)
    class_map: str | None = None
    name: str = "arrays"
    channels: int = 3

    def open(self, part: str) -> Part:
        """Return the rows of a part; see `ImageSet.open`."""
        if part == "test":
            source = self._source(self.path, self.labels)
            return Part(source, np.arange(len(source.labels)))
        if self.train is None:
            raise UserError(
                "dataset=arrays has no training images, and a network has to be trained on some; give "
                "dataset.train=FILE, or weights with checkpoint=FILE"
            )
        source = self._source(self.train, self.train_labels)
        rows = hold_out(len(source.labels))
        return Part(source, rows[part == "validation"], sliced=True)

    def class_names(self) -> tuple[str, ...]:
        """Return the name of every class; see `ImageSet.class_names`."""
        return ClassMap.of(self.class_map, self.classes).names(self.classes) if self.class_map else ()

    def _source(self, path: str, labels: str | None) -> Arrays:
        images = Path(path).expanduser()
        beside = Path(labels).expanduser() if labels is not None else images
        return _load(images, beside, self.x, self.y, self.layout, self.channels, self.size)


@cache
def _load(path: Path, beside: Path, x: str, y: str, layout: str | None, channels: int, size: int) -> Arrays:
    pixels = read_images(path, layout, channels, size, x)
    if path == beside and path.suffix == ".npy":
        raise UserError(f"{path} holds one array, the images; give dataset.labels=FILE with their labels")
    labels = read_labels(beside, y)
    if len(pixels) != len(labels):
        raise UserError(f"{path} holds {len(pixels)} images and {beside} {len(labels)} labels; give one for each")
    return Arrays(pixels, labels, str(path), levels=255 if pixels.dtype == np.uint8 else 1)


def read_images(path: Path, layout: str | None, channels: int, size: int, name: str = "x") -> NDArray[Any]:
    """Return the images of a file, [n, H, W, C], uint8 or float32 in [0, 1].

    Args:
        layout: nchw, nhwc, or None: inferred from the shape.
        name: of the array, where the file holds several.

    Raises:
        UserError: they are no images, or have another size or other channels.
    """
    pixels = _images(path, _array(path, name), layout)
    height, width, found = pixels.shape[1:]
    if (height, width) != (size, size):
        fix = f"set dataset.size={height}" if height == width else "give square images"
        raise UserError(f"{path} holds images of {height}x{width} pixels, not {size}x{size}; {fix}")
    if found != channels:
        raise UserError(f"{path} holds images of {found} channels, not {channels}; set dataset.channels={found}")
    return pixels


def read_labels(path: Path, name: str = "y") -> NDArray[np.int64]:
    """Return the labels of a file, [n].

    Args:
        name: of the array, where the file holds several.

    Raises:
        UserError: they are no whole numbers, one for each image.
    """
    return _labels(path, _array(path, name))


def _images(path: Path, array: NDArray[Any], layout: str | None) -> NDArray[Any]:
    """Return [n, H, W, C], uint8 or float32 in [0, 1]."""
    if array.ndim == 3:
        array = array[..., None]
        layout = "nhwc"
    if array.ndim != 4:
        raise UserError(f"{path} holds an array of shape {list(array.shape)}; images are [n, C, H, W] or [n, H, W, C]")
    layout = layout or _layout(path, array.shape)
    if array.dtype == np.uint8:
        ready = array
    elif array.dtype.kind == "f":
        ready = array.astype(np.float32, copy=False)
        low, high = (float(edge(ready)) if ready.size else 0.0 for edge in (np.min, np.max))
        if np.isnan(low):
            raise UserError(f"{path} holds pixels that are NaN; find where they come from, or leave those images out")
        if not (low >= 0 and high <= 1):
            raise UserError(
                f"{path} holds pixels from {low:.4g} to {high:.4g}; store uint8, or divide by the largest value so "
                "that they lie in [0, 1], and put any normalization into the model"
            )
    else:
        raise UserError(f"{path} holds images of type {array.dtype}; store uint8, or floating point in [0, 1]")
    return ready.transpose(0, 2, 3, 1) if layout == "nchw" else ready


def _layout(path: Path, shape: tuple[int, ...]) -> str:
    first, last = shape[1] in COLORS, shape[3] in COLORS
    if first == last:
        raise UserError(
            f"{path}: a shape of {list(shape)} does not tell where the channels are; set dataset.layout=nchw or nhwc"
        )
    return "nchw" if first else "nhwc"


def _labels(path: Path, array: NDArray[Any]) -> NDArray[np.int64]:
    if array.ndim != 1:
        raise UserError(
            f"{path} holds labels of shape {list(array.shape)}; write the number of its class for each image, [n]"
        )
    if array.dtype.kind not in "iu":
        raise UserError(f"{path} holds labels of type {array.dtype}; write whole numbers from 0, such as int64")
    if array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise UserError(f"{path} holds the label {int(array.max())}; write class numbers from 0")
    return array.astype(np.int64)


def _array(path: Path, name: str) -> NDArray[Any]:
    """Return the array of a file, by its name where the file holds several."""
    found = arrays_in(path)
    if isinstance(found, Mapping):
        if name not in found:
            raise UserError(
                f"{path} holds {', '.join(map(str, found)) or 'nothing'}, but no {name}; set dataset.x and y"
            )
        found = found[name]
    return as_array(path, found)


def as_array(path: Path, found: Any) -> NDArray[Any]:
    """Return a tensor or array of a file as an array. Raises UserError for anything else."""
    if isinstance(found, torch.Tensor):
        found = found.detach().cpu().numpy()
    if not isinstance(found, np.ndarray):
        raise UserError(f"{path} holds a {type(found).__name__}; save an array, or a dict of x and y")
    return found


def arrays_in(path: Path) -> Any:
    """Return what a file holds, an array or a mapping of them, without running anything in it.

    Raises:
        UserError: it is not there, of no known kind, damaged, or holds more than arrays.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; check its path")
    if path.suffix not in ENDINGS:
        raise UserError(f"{path} is of no known kind; give a file that ends in {', '.join(ENDINGS)}")
    try:
        return _read(path)
    except (OSError, ValueError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile, SafetensorError) as cause:
        raise UserError(f"{path} cannot be read as arrays ({reason(cause)}); save it again") from None
    except Exception as cause:  # torch raises what its unpickler meets
        raise UserError(f"{path} holds more than tensors ({reason(cause)}); save a dict of tensors") from None


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.numpy.load_file(path)
    if path.suffix in (".pt", ".pth"):
        return torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    return np.load(path, mmap_mode="r", allow_pickle=False)

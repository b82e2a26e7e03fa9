"""Images and labels that Python code hands in, known by the digest of their content; beside a run also as a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from gauntlet.data.image_dataset import ImageSet, Part
from gauntlet.data.in_memory import Arrays
from gauntlet.data.stream_rows import StreamRows
from gauntlet.errors import UserError, reason
from gauntlet.system.atomic_file import write_atomically
from gauntlet.system.file_reader import check_regular
from gauntlet.system.handed_objects import taken

MOST_BYTES = 1 << 30
"""Data beyond this are not stored beside a run."""

FOLDER = "_data"
"""Of a runs folder, where such data are stored."""


@dataclass(frozen=True, kw_only=True)
class GivenArrays(ImageSet):
    """Images and labels of a Python caller.

    Args:
        content: digest of the pixels and labels.
    """

    content: str
    name: str = "given"

    def open(self, part: str) -> Part:
        """Return the rows of the test part; see `ImageSet.open`."""
        if part != "test":
            raise UserError(
                "the images that Python code hands in are test images, so that nothing can be trained on them; give a "
                "model with its weights"
            )
        source: Arrays | StreamRows = taken(
            self.content,
            f"the data set {self.name}",
            "hand its images to evaluate() or certify() of gauntlet again; beside a run they lie in _data of its runs "
            "folder, unless they were too large",
        )
        return Part(source, np.arange(len(source.labels)))


def arrays_of(x: torch.Tensor, y: NDArray[np.int64]) -> Arrays:
    """Return images float32 [n, C, H, W] in [0, 1] with their labels as a source.

    Pixels that all are whole multiples of 1/255 are held as uint8, which gives the same float32 back.
    """
    floats = x.permute(0, 2, 3, 1)
    whole = (floats * 255).round_().to(torch.uint8)
    if all(torch.equal(whole[at].to(torch.float32).div_(255), floats[at]) for at in torch.arange(len(x)).split(1000)):  # type: ignore[no-untyped-call]
        return Arrays(_laid_out(whole), y, "x", levels=255)
    return Arrays(_laid_out(floats), y, "x", levels=1)


def _laid_out(pixels: torch.Tensor) -> NDArray[Any]:
    """Return pixels in the order of their axes: convolutions round by the strides, also by those of an axis of one."""
    return np.array(pixels.numpy(), order="C", copy=True)


def store(source: Arrays | StreamRows, folder: Path) -> bool:
    """Write a source into a folder unless it is there; return whether it is, which the largest and streams are not.

    Raises:
        UserError: the folder cannot be written.
    """
    path = file_of(folder, source.digest())
    if isinstance(source, StreamRows):
        return path.exists()
    if source.pixels.nbytes > MOST_BYTES or path.exists():
        return path.exists()
    arrays: dict[str, NDArray[Any]] = {"x": np.ascontiguousarray(source.pixels), "y": source.labels}
    write_atomically(path, safetensors.numpy.save(arrays))
    return True


def file_of(folder: Path, content: str) -> Path:
    """Return the file of a digest within a folder."""
    return folder / f"{content.rpartition(':')[2][:16]}.safetensors"


def stored(folder: Path, content: str) -> dict[str, Arrays]:
    """Return the source of that digest from a folder, by its name, to be handed in; nothing where it is not there.

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    path = file_of(folder, content)
    try:
        check_regular(path, 2 * MOST_BYTES)
        arrays = safetensors.numpy.load_file(path)
        pixels, labels = arrays["x"], arrays["y"]
        source = Arrays(pixels, labels, str(path), levels=255 if pixels.dtype == np.uint8 else 1)
        if pixels.ndim != 4 or labels.shape != pixels.shape[:1] or source.digest() != content:
            raise ValueError("its content does not have the digest of the run")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, SafetensorError) as cause:
        raise UserError(f"{path} cannot be used ({reason(cause)}); evaluate the model on the images again") from None
    return {content: source}

"""Common corruptions of another data set (Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261), made as it is read.

The corruptions are those of the package `imagecorruptions-imaug`. Where it draws, its seed is a function of the
corruption, the severity and the id of the image: it is given as an argument, or set in NumPy's global
generator meanwhile.
"""

import hashlib
import importlib.metadata
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gauntlet.data.corrupted import SEVERITIES
from gauntlet.data.dataset import Spread
from gauntlet.data.decoding import Pixels
from gauntlet.data.digest import Reading
from gauntlet.data.image_dataset import ImageSet, Part, Source
from gauntlet.data.selection import Ids
from gauntlet.errors import UserError, described

PACKAGE = "imagecorruptions-imaug"

LEAST = 32
"""Pixels of a side, at least: below, the blurs of the package are not defined."""

_generators = Lock()
"""Held while the global generators are those of one image."""


@dataclass(frozen=True, kw_only=True)
class CommonCorruptions(ImageSet):
    """The test images of another data set under one corruption at one severity, with their ids.

    Args:
        of: the data set, with color images of 32 pixels or more, stored in 8 bits.
        corruption: such as gaussian_noise, defocus_blur, fog or jpeg_compression.
        severity: 1 to 5.
        name: as it stands in the path of a run; `common_corruptions` stands for `<of>-<corruption>-<severity>`.
        classes, channels, size: those of the data set.
    """

    of: Any
    corruption: str
    severity: int
    name: str = "common_corruptions"
    channels: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.of, ImageSet):
            raise UserError("dataset.of is no data set of gauntlet; give one, such as +dataset@dataset.of=cifar10")
        for key in ("classes", "channels", "size"):
            mine, other = getattr(self, key), getattr(self.of, key)
            if mine != other:
                raise UserError(f"dataset.{key}={mine}, but dataset.of has {other}; set dataset.{key}={other}")
        if self.name == "common_corruptions":
            object.__setattr__(self, "name", f"{self.of.name}-{self.corruption}-{self.severity}")
        super().__post_init__()
        if not 1 <= self.severity <= SEVERITIES:
            raise UserError(f"dataset.severity={self.severity} must lie in 1 to {SEVERITIES}")
        if self.channels != 3 or self.size < LEAST:
            raise UserError(
                f"dataset.of has {self.channels} channels and {self.size} pixels, and common corruptions are of color "
                f"images of {LEAST} pixels or more; take another data set"
            )

    def open(self, part: str) -> Part:
        """Return the rows of a part; only test images are corrupted. See `ImageSet.open`."""
        opened: Part = self.of.open(part)
        if part != "test":
            return opened
        source = CorruptedRows(opened.source, self.corruption, self.severity, _function(self.corruption, self.severity))
        if len(opened.rows):
            source.check(opened.rows[:1])
        return Part(source, opened.rows, sliced=opened.sliced)

    def class_names(self) -> tuple[str, ...]:
        """Return the name of every class; see `ImageSet.class_names`."""
        names: tuple[str, ...] = self.of.class_names()
        return names


@dataclass(frozen=True, eq=False)
class CorruptedRows:
    """The rows of a source, each image corrupted when it is read."""

    source: Source
    corruption: str
    severity: int
    corrupt: Callable[[Pixels, int], Pixels] = field(repr=False)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the labels [rows]."""
        return self.source.labels

    @property
    def levels(self) -> int:
        """Return the stored value that stands for 1.0."""
        return self.source.levels

    def images(self, rows: Ids, spread: Spread = map) -> Pixels:
        """Return uint8 [B, H, W, C], in the order of `rows`."""
        clean = self.source.images(rows, spread)
        return np.stack([self._corrupted(image, row) for image, row in zip(clean, rows.tolist(), strict=True)])

    def check(self, rows: Ids) -> None:
        """Refuse pixels of more than 8 bits, and a corruption that no seed reaches."""
        clean = self.source.images(rows)
        if clean.dtype != np.uint8 or self.levels != 255:
            raise UserError("dataset.of does not store its pixels in 8 bits; take a data set that does")
        if any(not np.array_equal(self.images(rows), self.images(rows)) for _ in range(2)):
            raise UserError(
                f"dataset.corruption={self.corruption} is drawn anew each time, and no seed reaches it; take the "
                "published images with dataset=corrupted or dataset=imagefolder"
            )

    def where(self, row: int) -> str:
        """Return the place of a row, for messages."""
        return self.source.where(row)

    def name(self, row: int) -> str:
        """Return the name of a row."""
        return self.source.name(row)

    def digest(self) -> str:
        """Return the digest of the images that are corrupted."""
        return self.source.digest()

    def reading(self) -> Reading:
        """Return what makes of stored rows what is read; another version of the package may give other pixels."""
        made = f"{self.corruption} {self.severity} by {PACKAGE} {importlib.metadata.version(PACKAGE)}"
        return {**self.source.reading(), "corruption": made}

    def _corrupted(self, image: Pixels, row: int) -> Pixels:
        word = f"{self.corruption} {self.severity} {row}".encode()
        seed = int.from_bytes(hashlib.sha256(word).digest()[:4], "little")
        with _generators, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before = np.random.get_state()  # noqa: NPY002  the package draws from there
            np.random.seed(seed)  # noqa: NPY002
            try:
                return self.corrupt(image, seed)
            except Exception as cause:  # of the package: whatever an image leads it to
                raise UserError(
                    f"{self.where(row)}: {self.corruption} fails ({described(cause)}); leave the image out with "
                    "dataset.indices"
                ) from None
            finally:
                np.random.set_state(before)  # noqa: NPY002


def _function(corruption: str, severity: int) -> Callable[[Pixels, int], Pixels]:
    """Return what corrupts an image, given a seed.

    Raises:
        UserError: the package is not installed, or knows no such corruption.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages that it imports
            import imagecorruptions
    except ImportError:
        raise UserError(
            f"dataset=common_corruptions needs the package {PACKAGE}; pip install {PACKAGE} (or, in a checkout, "
            "pip install -e '.[corruptions]')"
        ) from None
    known = imagecorruptions.get_corruption_names("all")
    if corruption not in known:
        raise UserError(f"dataset.corruption={corruption} is unknown; choose {', '.join(known)}")
    takes_seed = "seed" in inspect.signature(imagecorruptions.corruption_dict[corruption]).parameters

    def made(image: Pixels, seed: int) -> Pixels:
        more = {"seed": seed} if takes_seed else {}
        corrupted: Pixels = imagecorruptions.corrupt(image, severity=severity, corruption_name=corruption, **more)
        return corrupted

    return made

"""MNIST, Fashion-MNIST, SVHN, CIFAR-10 and CIFAR-100, read and downloaded by torchvision.

Published test sets are the test part. The validation part is a fixed tenth of the published training set.
"""

import http.client
import struct
import tarfile
import warnings
import zlib
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from gauntlet.data.download import impatient, staged
from gauntlet.data.image_dataset import ImageSet, Part
from gauntlet.data.in_memory import Arrays
from gauntlet.data.selection import hold_out
from gauntlet.errors import UserError, reason

DAMAGE: tuple[type[Exception], ...] = (
    *(RuntimeError, OSError, ValueError, TypeError, KeyError, IndexError, EOFError, AssertionError),
    *(UnpicklingError, struct.error, zlib.error, tarfile.TarError, http.client.HTTPException),
)
"""What torchvision's readers and downloaders raise on missing or damaged files and on a missing network."""

NUMBERS = ("MNIST", "SVHN")
"""Sets whose classes are numbers: names would say nothing more."""


@dataclass(frozen=True, kw_only=True)
class TorchvisionSet(ImageSet):
    """A set that torchvision knows under the name of the class.

    root: the folder that torchvision keeps its files in.
    download: fetch the files if they are not there.
    """

    root: str = "data"
    download: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        fixed = {f.name: f.default for f in fields(self) if f.name in ("classes", "channels", "size")}
        if any(getattr(self, key) != value for key, value in fixed.items()):
            facts = ", ".join(f"{key}={value}" for key, value in fixed.items())
            raise UserError(f"{type(self).__name__} has {facts}; leave these fields of dataset as they are")

    def open(self, part: str) -> Part:
        source = _load(type(self).__name__, self.root, part != "test", self.download)
        if part == "test":
            return Part(source, np.arange(len(source.labels)))
        training, validation = hold_out(len(source.labels))
        return Part(source, training if part == "train" else validation, sliced=True)

    def class_names(self) -> tuple[str, ...]:
        """Return the name of every class; see `ImageSet.class_names`."""
        return _load(type(self).__name__, self.root, False, self.download).names


@dataclass(frozen=True, kw_only=True)
class MNIST(TorchvisionSet):
    """Handwritten digits, 60,000 and 10,000 (LeCun, Cortes, Burges)."""

    name: str = "mnist"
    classes: int = 10
    channels: int = 1
    size: int = 28
    budgets: dict[str, str | float] = field(default_factory=lambda: {"linf": 0.3, "l2": 2.0, "l1": 10.0})


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(TorchvisionSet):
    """Articles of clothing, 60,000 and 10,000 (Xiao et al., arXiv 1708.07747)."""

    name: str = "fashion_mnist"
    classes: int = 10
    channels: int = 1
    size: int = 28
    budgets: dict[str, str | float] = field(default_factory=lambda: {"linf": 0.1, "l2": 1.5, "l1": 10.0})


@dataclass(frozen=True, kw_only=True)
class SVHN(TorchvisionSet):
    """House numbers, 73,257 and 26,032 (Netzer et al., 2011)."""

    name: str = "svhn"
    classes: int = 10
    channels: int = 3
    size: int = 32


@dataclass(frozen=True, kw_only=True)
class CIFAR10(TorchvisionSet):
    """Small photographs, 50,000 and 10,000 (Krizhevsky, 2009)."""

    name: str = "cifar10"
    classes: int = 10
    channels: int = 3
    size: int = 32


@dataclass(frozen=True, kw_only=True)
class CIFAR100(TorchvisionSet):
    """Small photographs, 50,000 and 10,000 (Krizhevsky, 2009), with the fine labels."""

    name: str = "cifar100"
    classes: int = 100
    channels: int = 3
    size: int = 32


@lru_cache(maxsize=2)
def _load(kind: str, root: str, train: bool, download: bool) -> Arrays:
    """All images of the published training or test set, downloaded where they are missing and that is asked for."""
    folder = Path(root).expanduser()
    try:
        return _read(kind, folder, train)
    except DAMAGE as cause:
        if not download:
            raise UserError(
                f"{kind} is missing or damaged under dataset.root={root} ({reason(cause).partition('. You')[0]}); "
                "run with dataset.download=true, or set dataset.root to the folder that has it"
            ) from None
    _fetch(kind, folder, train)
    try:
        return _read(kind, folder, train)
    except DAMAGE as cause:
        raise UserError(f"{kind} under {folder} is damaged ({reason(cause)}); delete it and run again") from None


def _fetch(kind: str, folder: Path, train: bool) -> None:
    try:
        with staged(folder) as stage, impatient():
            if not _complete(kind, folder, train):  # another process may have fetched it while this one waited
                _construct(kind, stage, train, download=True)
    except DAMAGE as cause:
        raise UserError(
            f"{kind} cannot be downloaded to {folder} ({reason(cause)}); connect to the network, "
            "or set dataset.root to a folder that has it"
        ) from None


def _complete(kind: str, folder: Path, train: bool) -> bool:
    try:
        return bool(_read(kind, folder, train))
    except DAMAGE:
        return False


def _read(kind: str, folder: Path, train: bool) -> Arrays:
    found = _construct(kind, folder, train, download=False)
    pixels = np.asarray(found.data)
    if pixels.ndim == 3:  # MNIST: no axis for the channel
        pixels = pixels[..., None]
    elif kind == "SVHN":  # the only one that is stored channels first
        pixels = pixels.transpose(0, 2, 3, 1)
    labels = np.asarray(found.labels if kind == "SVHN" else found.targets, dtype=np.int64)
    if pixels.dtype != np.uint8 or len(pixels) != len(labels):
        raise ValueError(f"{len(pixels)} images of {pixels.dtype}, {len(labels)} labels")
    names = () if kind in NUMBERS else tuple(map(str, getattr(found, "classes", ())))
    return Arrays(pixels, labels, f"{kind} {'training' if train else 'test'} set", names=names)


def _construct(kind: str, folder: Path, train: bool, download: bool) -> Any:
    from torchvision import datasets  # slow to import

    which: dict[str, Any] = {"split": "train" if train else "test"} if kind == "SVHN" else {"train": train}
    with warnings.catch_warnings():  # NumPy 2.4.0 to 2.4.4 warn of pickles as old as those of CIFAR
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        return getattr(datasets, kind)(str(folder), **which, download=download)

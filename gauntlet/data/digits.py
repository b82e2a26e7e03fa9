"""The handwritten digits that come with scikit-learn: 1,797 grey 8x8 images, real data without a download.

They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998, UCI repository).
"""

from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from gauntlet.data.dataset import PARTS
from gauntlet.data.image_dataset import ImageSet, Part
from gauntlet.data.in_memory import Arrays
from gauntlet.data.selection import Ids, hash_order
from gauntlet.errors import UserError

TEST, VALIDATION = 0.2, 0.2
"""Shares of each class; the rest is for training."""


@dataclass(frozen=True, kw_only=True)
class Digits(ImageSet):
    """A fixed split, stratified by class: 60 % train, 20 % validation, 20 % test. Stored pixels go from 0 to 16."""

    name: str = "digits"
    classes: int = 10
    channels: int = 1
    size: int = 8
    budgets: dict[str, str | float] = field(default_factory=lambda: {"linf": 0.15, "l2": 1.0, "l1": 3.0})

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.classes, self.channels, self.size) != (10, 1, 8):
            raise UserError("digits has classes=10, channels=1, size=8; leave these fields of dataset as they are")

    def open(self, part: str) -> Part:
        source = _parts()[part]
        return Part(source, np.arange(len(source.labels)))


@lru_cache(maxsize=1)
def _parts() -> dict[str, Arrays]:
    table = np.loadtxt(_file(), delimiter=",", dtype=np.uint8)
    pixels, labels = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(np.int64)
    parts = _rows(labels).items()
    return {part: Arrays(pixels[rows], labels[rows], f"digits {part}", levels=16) for part, rows in parts}


def _file() -> Path:
    """Where scikit-learn keeps them: its import alone would take each worker of a sweep a second."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError("dataset=digits needs scikit-learn; pip install scikit-learn")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


def _rows(labels: Ids) -> dict[str, Ids]:
    """Rows of each part in hash order, so that any prefix is a fair sample; each class is shared out by itself."""
    order = hash_order(len(labels))
    shares: dict[str, list[Ids]] = {part: [] for part in PARTS}
    for label in np.unique(labels):
        own = order[labels[order] == label]
        first, second = round(len(own) * TEST), round(len(own) * (TEST + VALIDATION))
        for part, rows in zip(("test", "validation", "train"), np.split(own, [first, second]), strict=True):
            shares[part].append(rows)
    return {part: order[np.isin(order, np.concatenate(pieces))] for part, pieces in shares.items()}

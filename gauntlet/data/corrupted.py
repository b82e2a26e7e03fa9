"""Corrupted test sets in the layout of CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261).

A folder holds one array a corruption, `gaussian_noise.npy` and so on, uint8 [5n, H, W, C]: the n test images at
severity 1, then at severity 2, up to 5; and `labels.npy`, [5n] or [n].
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gauntlet.data.array_files import read_images, read_labels
from gauntlet.data.class_map import ClassMap
from gauntlet.data.image_dataset import ImageSet, Part
from gauntlet.data.in_memory import Arrays
from gauntlet.errors import UserError, some
from gauntlet.knobs import knob

SEVERITIES = 5

LABELS = "labels.npy"


@dataclass(frozen=True, kw_only=True)
class Corrupted(ImageSet):
    """The test images under one corruption at one severity; the id of an image is that of the clean one.

    Args:
        path: the folder of the arrays.
        corruption: name of the array, such as gaussian_noise.
        severity: 1 to 5.
        class_map: names of the classes, for reports: a file, or a list.
        name: as it stands in the path of a run; `corrupted` stands for `corrupted-<corruption>-<severity>`.
    """

    path: str
    corruption: str
    severity: int = knob(whole=True, least=1, most=SEVERITIES)
    class_map: str | None = None
    name: str = "corrupted"
    channels: int = 3

    def __post_init__(self) -> None:
        if self.name == "corrupted":
            object.__setattr__(self, "name", f"corrupted-{self.corruption}-{self.severity}")
        super().__post_init__()

    def open(self, part: str) -> Part:
        """Return the rows of the test part; there is no other."""
        if part != "test":
            raise UserError(
                "dataset=corrupted has test images alone, and a network has to be trained on others; give weights with "
                "checkpoint=FILE"
            )
        source = self._source()
        return Part(source, np.arange(len(source.labels)))

    def class_names(self) -> tuple[str, ...]:
        """Return the name of every class; see `ImageSet.class_names`."""
        return ClassMap.of(self.class_map, self.classes).names(self.classes) if self.class_map else ()

    def _source(self) -> Arrays:
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise UserError(f"dataset.path={self.path} is not a folder; set it to the one that holds {LABELS}")
        path = root / f"{self.corruption}.npy"
        if not path.exists():
            known = sorted(file.stem for file in root.glob("*.npy") if file.name != LABELS)
            raise UserError(f"{root} has no {path.name}; set dataset.corruption to one of {some(known, 20) or 'none'}")
        pixels = read_images(path, "nhwc", self.channels, self.size)
        count, rest = divmod(len(pixels), SEVERITIES)
        if rest or not count:
            raise UserError(
                f"{path} holds {len(pixels)} images, which {SEVERITIES} severities cannot share; fetch it anew"
            )
        labels = self._labels(root / LABELS, count, len(pixels))
        at = slice((self.severity - 1) * count, self.severity * count)
        return Arrays(pixels[at], labels, f"{path}, severity {self.severity}")

    def _labels(self, path: Path, count: int, whole: int) -> NDArray[np.int64]:
        """Return the labels of the n images; each severity has to have the same."""
        labels = read_labels(path)
        if len(labels) == whole:
            first = labels.reshape(SEVERITIES, count)
            if (first != first[0]).any():
                raise UserError(f"{path} has other labels at another severity; fetch it anew")
            return labels[:count]
        if len(labels) != count:
            raise UserError(f"{path} holds {len(labels)} labels for {whole} images; fetch it anew")
        return labels

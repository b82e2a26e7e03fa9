"""CC1M: a million photographs without labels, in the layout that its authors publish (arXiv 2411.15210)."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from gauntlet.data.class_map import IMAGENET, ClassMap
from gauntlet.data.encoded_images import EncodedImages
from gauntlet.data.folder_rows import Folder, Names, folder_part
from gauntlet.data.image_dataset import Part, Source
from gauntlet.data.selection import Ids
from gauntlet.errors import UserError, printable, reason

LIST, IMAGES = "data.csv", "images"

UNLABELED = -1


@dataclass(frozen=True, kw_only=True)
class CC1M(EncodedImages):
    """Images `path/images/<file>` for the rows of `path/data.csv`, whose first column is the file; others are captions.

    The list holds what the filter of its authors left of CC3M: no dead links, no icons, no outliers by local intrinsic
    dimension. There are no labels: the label of an image is what the deployed defense predicts without an attack, so
    that clean accuracy is 100 % but for rounding, and robust accuracy is the share of predictions that stay.

    path: the folder of the list.
    classes: of the network.
    """

    predicted_labels: ClassVar[bool] = True

    name: str = "cc1m"
    classes: int = 1000
    channels: int = 3
    size: int = 224
    resize: int | None = 256
    budgets: dict[str, str | float] = field(default_factory=lambda: {"linf": "4/255", "l2": 3.0, "l1": 60.0})
    path: str

    def open(self, part: str) -> Part:
        """Return the rows of the test part; see `ImageSet.open`. Raises UserError for another: there is none."""
        if part != "test":
            raise UserError(
                f"{self.name} has test images alone, no {part} part; take weights that are trained elsewhere"
            )
        root = Path(self.path).expanduser()
        if not (root / LIST).is_file() or not (root / IMAGES).is_dir():
            raise UserError(
                f"dataset.path={self.path} lacks {LIST} or the folder {IMAGES}; set it to CC1M as published"
            )
        names = Names.of(_listed(root / LIST))
        labels = np.full(len(names), UNLABELED, np.int64)
        return folder_part(Folder(root / IMAGES, names, labels, self.form(upright=True)), part, cut=False)

    def class_names(self) -> tuple[str, ...]:
        """Return the name of every class; see `ImageSet.class_names`."""
        found = self.mapped() or (ClassMap.of(IMAGENET, self.classes) if self.classes == 1000 else None)
        return found.names(self.classes) if found else ()

    def _check_labels(self, source: Source, rows: Ids) -> None:
        """Check nothing: there are no labels."""


def _listed(path: Path) -> Iterator[str]:
    """Yield the files of the list, row by row. Raises UserError where a row names none below the folder of images."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            for row in rows:
                name = row[0].strip() if row else ""
                place = PurePosixPath(name)
                if not name or place.is_absolute() or ".." in place.parts:
                    raise UserError(
                        f"{path}, line {rows.line_num}: {printable(name)[:60]!r} is no file below {IMAGES}; repair it"
                    )
                yield name
    except (OSError, ValueError, csv.Error) as cause:
        raise UserError(f"{path} cannot be read ({reason(cause)}); repair the list") from None

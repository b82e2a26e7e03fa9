"""Read images from one folder per class when they are needed."""

import os
from dataclasses import dataclass
from pathlib import Path

from gauntlet.data.encoded_images import EncodedImages
from gauntlet.data.folder_rows import ORDERS, Folder, folder_part, in_order
from gauntlet.data.image_dataset import Part
from gauntlet.errors import UserError, reason, some
from gauntlet.knobs import choice


@dataclass(frozen=True, kw_only=True)
class ImageFolder(EncodedImages):
    """Images at `path/<part>/<class>/**/<image>`, classes numbered in the order of their folder names.

    Args:
        path: the folder of the set.
        train, test, validation: the folder of each part, relative to `path`; without a validation folder, a fixed tenth
            of the training images is held out.
        order: of the classes: `number` (1, 2, 10), `text` (1, 10, 2), or `auto`: by number where all names are numbers.
            With `class_map`, classes have the numbers that it gives, and those without a folder are just not tested.

    Sample ids follow the paths, class by class. The images come in a fixed hash order, so that `limit` takes a fair
    sample. Folders and files whose names begin with a dot are left out. Images are turned as their EXIF orientation
    says.
    """

    path: str
    train: str = "train"
    test: str = "test"
    validation: str | None = None
    order: str = choice("auto", ORDERS)
    name: str = "imagefolder"
    channels: int = 3

    def open(self, part: str) -> Part:
        """Return the rows of a part; see `ImageSet.open`."""
        folder, classes = self._folder(part), self.mapped()
        if classes is None and part != "train":
            self._check_same_classes(folder)
        cut = part != "test" and self.validation is None
        source = Folder.scan(folder, self.classes, self.form(upright=True), self.order, classes)
        return folder_part(source, part, cut=cut)

    def class_names(self) -> tuple[str, ...]:
        """Return the name of every class; see `ImageSet.class_names`."""
        if classes := self.mapped():
            return classes.names(self.classes)
        return tuple(in_order(_class_folders(self._folder("test")), self.order))

    def _folder(self, part: str) -> Path:
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise UserError(f"dataset.path={self.path} is not a folder; set it to the one that holds the images")
        own = {"train": self.train, "test": self.test, "validation": self.validation}[part]
        folder = root / (self.train if own is None else own)
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; set dataset.{part} to the {part} part's place in dataset.path")
        return folder

    def _check_same_classes(self, folder: Path) -> None:
        """Refuse a part with other classes than the training part: their numbers would mean other things."""
        trained = Path(self.path).expanduser() / self.train
        if trained == folder or not trained.is_dir():
            return
        mine, other = (set(_class_folders(place)) for place in (folder, trained))
        if mine != other and len(mine) == len(other):
            raise UserError(
                f"{folder} and {trained} have other class folders ({some(sorted(mine ^ other))}), so that a number "
                "would mean another class in each; rename them, or give dataset.class_map"
            )


def _class_folders(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as cause:
        raise UserError(f"{folder} cannot be read ({reason(cause)}); check dataset.path") from None

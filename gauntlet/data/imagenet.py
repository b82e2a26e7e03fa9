"""ImageNet (ILSVRC 2012; Russakovsky et al., arXiv 1409.0575), unpacked by torchvision, read from its folders.

The published validation images are the test part, as everywhere in the field; a fixed tenth of the training images is
the validation part. The archives are not free to download: the user brings them.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from gauntlet.data.class_map import IMAGENET, ClassMap
from gauntlet.data.download import staged
from gauntlet.data.encoded_images import EncodedImages
from gauntlet.data.folder_rows import Folder, folder_part
from gauntlet.data.image_dataset import Part
from gauntlet.data.torchvision_datasets import DAMAGE
from gauntlet.errors import UserError, reason

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
WHOLE = 1000
"""Classes of the published set."""

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}


@dataclass(frozen=True, kw_only=True)
class ImageNet(EncodedImages):
    """The shorter side is resized to `resize`, then `size` x `size` is cut out of the center.

    root: the folder with `train/` and `val/`, one folder per WordNet id in each, or with the archives as published.
        Where folders are missing, those that are there have the numbers of their WordNet ids.
    upright: turn images as their EXIF orientation says; torchvision does not, and published accuracies are without.
    download: unpack the archives where the folders are missing; ImageNet cannot be downloaded without an account.
    """

    name: str = "imagenet"
    classes: int = 1000
    channels: int = 3
    size: int = 224
    resize: int | None = 256
    budgets: dict[str, str | float] = field(default_factory=lambda: {"linf": "4/255", "l2": 3.0, "l1": 60.0})
    root: str = "data/imagenet"
    upright: bool = False
    download: bool = False

    def open(self, part: str) -> Part:
        root = Path(self.root).expanduser()
        folder = "val" if part == "test" else "train"
        if not (root / folder).is_dir():
            if not self.download:
                raise UserError(
                    f"dataset.root={self.root} has no folder {folder}; ImageNet must be fetched by hand: put {DEVKIT} "
                    f"and {ARCHIVES[folder]} from image-net.org there, then dataset.download=true unpacks them"
                )
            _unpack(root, folder)
        source = Folder.scan(
            root / folder, self.classes, self.form(upright=self.upright), "text", self._classes(root / folder)
        )
        return folder_part(source, part, cut=part != "test")

    def class_names(self) -> tuple[str, ...]:
        """Return the name of every class; see `ImageSet.class_names`."""
        classes = self.mapped() or (ClassMap.of(IMAGENET, self.classes) if self.classes == WHOLE else None)
        return classes.names(self.classes) if classes else ()

    def _classes(self, folder: Path) -> ClassMap | None:
        """Return the map of classes; that of the WordNet ids where some of the thousand folders are missing."""
        if self.class_map is not None or self.classes != WHOLE:
            return self.mapped()
        there = sum(entry.is_dir() and not entry.name.startswith(".") for entry in os.scandir(folder))
        return None if there == WHOLE else ClassMap.of(IMAGENET, WHOLE)


def _unpack(root: Path, folder: str) -> None:
    """Make `root/folder` from the archives in `root`, whole or not at all."""
    from torchvision import datasets  # slow to import

    if not root.is_dir():
        raise UserError(f"dataset.root={root} is not a folder; make it and put {DEVKIT} and {ARCHIVES[folder]} there")
    try:
        with staged(root) as stage:
            if (root / folder).is_dir():  # another process has unpacked it while this one waited
                return
            links = [stage / name for name in (DEVKIT, ARCHIVES[folder], "meta.bin") if (root / name).exists()]
            for link in links:
                link.symlink_to((root / link.name).absolute())
            datasets.ImageNet(str(stage), split=folder)
            for link in links:
                link.unlink()
    except DAMAGE as cause:
        raise UserError(
            f"ImageNet cannot be unpacked in {root} ({reason(cause)}); put {DEVKIT} and {ARCHIVES[folder]} "
            "from image-net.org there, whole, and leave room on the disk"
        ) from None

"""Photographs of another origin than a network's training images: ImageNet-A, -R, -V2 and ObjectNet, as published.

Accuracy without an attack on such a set is what its publication reports, over the classes that it has: a network of
ImageNet's thousand classes is judged on those alone with `model=restricted`.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gauntlet.data.class_groups import HINT, ClassGroups
from gauntlet.data.class_map import IMAGENET, ClassMap
from gauntlet.data.decoding import Form
from gauntlet.data.encoded_images import EncodedImages
from gauntlet.data.folder_rows import Folder, folder_part
from gauntlet.data.image_dataset import Part
from gauntlet.errors import UserError, some
from gauntlet.knobs import knob


@dataclass(frozen=True, kw_only=True)
class NaturalImages(EncodedImages):
    """Test images at `path/<class>/<image>`, resized and cut as those of ImageNet.

    path: the folder of the class folders.
    class_map: which folder is which class, see `gauntlet.data.class_groups.ClassGroups`.
    border: pixels that are cut off at every side of an image before it is resized.

    Folders that stand for no class of the set are left out; a class without a folder is refused, because accuracy over
    fewer classes is another number.
    """

    channels: int = 3
    size: int = 224
    resize: int | None = 256
    budgets: dict[str, str | float] = field(default_factory=lambda: {"linf": "4/255", "l2": 3.0, "l1": 60.0})
    path: str
    border: int = knob(0, whole=True, least=0, hint="pixels")

    def open(self, part: str) -> Part:
        """Return the rows of the test part; see `ImageSet.open`. Raises UserError for another: there is none."""
        if part != "test":
            raise UserError(
                f"{self.name} has test images alone, no {part} part; take weights that are trained elsewhere"
            )
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise UserError(f"dataset.path={self.path} is not a folder; set it to the one that holds the class folders")
        classes = self.mapped()
        if missing := [name for name in classes.numbers if not (folder / name).is_dir()]:
            raise UserError(
                f"{folder} lacks {len(missing)} of the {self.classes} class folders of {self.name} ({some(missing)}); "
                "unpack the set whole, or read what is there by dataset=imagefolder"
            )
        source = Folder.scan(folder, self.classes, self.form(upright=True), "text", classes, others=True)
        return folder_part(source, part, cut=False)

    def form(self, *, upright: bool) -> Form:
        """Return what every image is brought to; see `EncodedImages.form`."""
        return replace(super().form(upright=upright), border=self.border)

    def class_names(self) -> tuple[str, ...]:
        """Return the name of every class; see `ImageSet.class_names`."""
        return self.mapped().names(self.classes)

    def mapped(self) -> ClassMap:
        """Return which class a folder is. Raises UserError where there are not as many as `classes`."""
        if self.class_map is None:
            raise UserError(f"dataset.class_map=null says no classes; {HINT}")
        found = ClassGroups.of(self.class_map).mapped()
        if len(found.numbers) != self.classes:
            raise UserError(
                f"{found.origin} has {len(found.numbers)} classes; set dataset.classes={len(found.numbers)}, not "
                f"{self.classes}"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class ImageNetA(NaturalImages):
    """ImageNet-A: 7,500 photographs of 200 classes that a ResNet-50 gets wrong (arXiv 1907.07174)."""

    name: str = "imagenet_a"
    classes: int = 200
    class_map: Any = "imagenet_a"


@dataclass(frozen=True, kw_only=True)
class ImageNetR(NaturalImages):
    """ImageNet-R: 30,000 renditions of 200 classes, such as paintings and toys (arXiv 2006.16241)."""

    name: str = "imagenet_r"
    classes: int = 200
    class_map: Any = "imagenet_r"


@dataclass(frozen=True, kw_only=True)
class ObjectNet(NaturalImages):
    """ObjectNet: photographs with random backgrounds, rotations and viewpoints; 113 of its 313 classes are ImageNet's.

    class_map: the folder `mappings` of the publication; several classes of ImageNet stand for some of ObjectNet.
    border: every image has a red border of 2 pixels, which its authors ask to be cut off.

    Source: Barbu et al., NeurIPS 2019.
    """

    name: str = "objectnet"
    classes: int = 113
    class_map: Any = None
    border: int = knob(2, whole=True, least=0, hint="pixels")


@dataclass(frozen=True, kw_only=True)
class ImageNetV2(NaturalImages):
    """ImageNet-V2: 10,000 new photographs of the thousand classes (arXiv 1902.10811).

    Folders have the numbers 0 to 999 of the classes; read in the order of their texts, 10 would come before 2.

    class_map: null: those numbers.
    """

    name: str = "imagenet_v2"
    classes: int = 1000

    def mapped(self) -> ClassMap:
        """Return which class a folder is, by its number."""
        if self.class_map is not None:
            return super().mapped()
        numbers = {str(number): number for number in range(self.classes)}
        titles = ClassMap.of(IMAGENET, self.classes).titles if self.classes == 1000 else {}
        return ClassMap(numbers, titles, True, "the numbers of the folders")

"""What all sets of encoded images share: how an image is resized, and which number a class has."""

from dataclasses import dataclass
from typing import Any

from gauntlet.data.class_map import ClassMap
from gauntlet.data.decoding import Form
from gauntlet.data.image_dataset import ImageSet
from gauntlet.data.resizing import Resize
from gauntlet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EncodedImages(ImageSet):
    """A data set of encoded images (PNG, JPEG and others), of any size where they are resized.

    Args:
        resize: null, and every image must be `size` x `size`; or the length that the shorter side is resized to before
            the center is cut out.
        interpolation: of the resize: nearest, bilinear, bicubic or lanczos, as Pillow does it.
        crop: `center`: the aspect ratio stays, and the center is cut out; `squash`: both sides are resized to `resize`.
        antialias: whether the filter widens as an image shrinks.
        class_map: null; or which class a name in the data is: a file (.json, .txt, .csv), a mapping {name: class}, a
            list of names, or `imagenet` (WordNet ids).

    Raises:
        UserError: a value outside its range, or one that has no effect.
    """

    resize: int | None = None
    interpolation: str = "bilinear"
    crop: str = "center"
    antialias: bool = True
    class_map: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        length = self.size if self.resize is None else self.resize
        Resize(length, self.interpolation, self.crop, self.antialias).check(self.size)
        changed = [
            f"dataset.{name}={value}"
            for name, value, plain in (
                ("interpolation", self.interpolation, "bilinear"),
                ("crop", self.crop, "center"),
                ("antialias", str(self.antialias).lower(), "true"),
            )
            if value != plain
        ]
        if self.resize is None and changed:
            raise UserError(f"{changed[0]} is about a resize, and there is none; set dataset.resize, or leave it out")

    def form(self, *, upright: bool) -> Form:
        """Return what every image is brought to. upright: whether they are turned as their EXIF orientation says."""
        if self.resize is None:
            return Form(self.channels, self.size, upright=upright)
        resize = Resize(self.resize, self.interpolation, self.crop, self.antialias)
        return Form(self.channels, self.size, resize, upright)

    def mapped(self) -> ClassMap | None:
        """Return the map of classes, checked against their number; None without one."""
        return None if self.class_map is None else ClassMap.of(self.class_map, self.classes)

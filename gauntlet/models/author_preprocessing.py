"""The preprocessing that the author of a network declares, and what becomes of it for images of a given size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gauntlet.errors import UserError
from gauntlet.models.wrapped import INTERPOLATIONS


@dataclass(frozen=True)
class Declared:
    """What an author's configuration says of the pixels that a network takes.

    Attributes:
        source: the configuration, in words.
        mean, std: of pixels in [0, 1], for each channel.
        size: height and width that the network takes.
        resize: side that photographs are resized to before a square of `size` is cut out of their center.
        interpolation: of the resize.
    """

    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    resize: int
    interpolation: str

    def for_images(self, size: int, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of `Wrapped` for images of a size.

        Images of the size that the network takes are taken as preprocessed already, and stay as they are.

        Args:
            size: of the images.
            given: what the user says instead; null: as declared. A `resize` of 0: none.

        Raises:
            UserError: the images do not fit, or the declared interpolation has no gradient.
        """
        fits = size == self.size
        resize, crop = (None, None) if fits else (self.resize, self.size if self.resize != self.size else None)
        declared = {
            "mean": self.mean,
            "std": self.std,
            "resize": resize,
            "interpolation": self.interpolation,
            "crop": crop,
        }
        chosen = declared | {key: value for key, value in given.items() if value is not None}
        if chosen["resize"] == 0:
            chosen["resize"] = None
        if given.get("resize") is not None and given.get("crop") is None:
            chosen["crop"] = None
        if chosen["interpolation"] not in INTERPOLATIONS:
            raise UserError(
                f"{self.source} declares interpolation {chosen['interpolation']}, which has no gradient here; choose "
                f"model.interpolation={', '.join(INTERPOLATIONS)} and compare the clean accuracy"
            )
        side = chosen["crop"] or chosen["resize"] or size
        if side != self.size and given.get("resize") is None and given.get("crop") is None:
            raise UserError(f"{self.source} takes {self.size} pixels, the images give {side}; set model.resize")
        return chosen

    def against(self, size: int, resize: int | None, interpolation: str) -> list[str]:
        """Return a line where photographs come to the size of the network in another way than its author says.

        Args:
            size: of the images.
            resize, interpolation: by which the data set made them of photographs; null: they are stored so.
        """
        ours, theirs = (resize, interpolation), (self.resize, self.interpolation)
        if size != self.size or resize is None or ours == theirs:
            return []
        return [
            f"{self.source} takes photographs resized to {self.resize} {self.interpolation} before {size} are cut out, "
            f"the data set resizes to {resize} {interpolation}; to do as declared add dataset.resize={self.resize} "
            f"dataset.interpolation={self.interpolation}"
        ]

    def text(self, given: dict[str, Any]) -> str:
        """Return where the constants come from, for the record."""
        changed = [key for key, value in given.items() if value is not None and key in ("mean", "std")]
        return self.source + (f"; {' and '.join(changed)} as given" if changed else "")


def triple(values: Any, name: str, source: str) -> tuple[float, ...]:
    """Return constants of a configuration as numbers. Raises UserError where they are none."""
    if isinstance(values, int | float):
        values = [values]
    if not isinstance(values, Sequence) or not values or not all(isinstance(v, int | float) for v in values):
        raise UserError(f"{source} declares {name}={values}, which are no numbers; set model.{name}")
    return tuple(float(v) for v in values)

"""A user's own data set: anything with a length whose items are (image, label), as torch and torchvision have it."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gauntlet.data.class_map import ClassMap
from gauntlet.data.image_dataset import ImageSet, Part
from gauntlet.data.item_rows import ItemRows
from gauntlet.data.selection import hold_out
from gauntlet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ItemSet(ImageSet):
    """Items of map-style data sets: `len(items)`, and `items[0]` is an image with its label.

    An image is a tensor or array [C, H, W], floating point in [0, 1] or uint8, or a picture of Pillow. Each item is
    read once before the work begins, for labels and digest, and again when it is needed; it has to be the same then.

    Args:
        class_map: names of the classes, for reports: a file, or a list; null: those of `classes` of the items, if any.
    """

    class_map: Any = None
    channels: int = 3

    @abstractmethod
    def items(self, part: str) -> Any:
        """Return the items of a part; None where there are none."""

    def open(self, part: str) -> Part:
        """Return the rows of a part; see `ImageSet.open`."""
        if part != "validation" or self._items(part) is not None:
            source = self._source(part)
            whole = part == "test" or (part == "train" and self._items("validation") is not None)
            if whole or part == "validation":
                return Part(source, np.arange(len(source.labels)))
        source = self._source("train")
        rows = hold_out(len(source.labels))
        return Part(source, rows[part == "validation"], sliced=True)

    def class_names(self) -> tuple[str, ...]:
        """Return the name of every class; see `ImageSet.class_names`."""
        if self.class_map is not None:
            return ClassMap.of(self.class_map, self.classes).names(self.classes)
        names = getattr(self._items("test"), "classes", None)
        fits = isinstance(names, list | tuple) and len(names) == self.classes
        return tuple(map(str, names)) if fits and names else ()

    @cached_property
    def _known(self) -> dict[str, Any]:
        """Return the items so far, and what was read of them: a pass over all items takes its time."""
        return {}

    def _items(self, part: str) -> Any:
        if part not in self._known:
            self._known[part] = self.items(part)
        return self._known[part]

    def _source(self, part: str) -> ItemRows:
        items, read = self._items(part), f"{part} read"
        if items is None:
            raise UserError(
                f"the data set gives no {part} items"
                + (", and a network has to be trained on some; give it those, or weights with checkpoint=FILE")
                * (part == "train")
            )
        if read not in self._known:
            self._known[read] = ItemRows.of(items, f"{part} item", self.channels, self.size)
        found: ItemRows = self._known[read]
        return found


@dataclass(frozen=True, kw_only=True)
class TorchItems(ItemSet):
    """Items that nodes of the configuration make; see `ItemSet`.

    Args:
        test: the test items: `{_target_: mine.data.Flowers, split: test}`.
        train: the training items; null: there are none, so nothing can be trained.
        validation: the validation items; null: a fixed tenth of the training items.
    """

    test: Any
    train: Any = None
    validation: Any = None
    name: str = "torch"

    def items(self, part: str) -> Any:
        """Return the items of a part; None where there are none."""
        return getattr(self, part)

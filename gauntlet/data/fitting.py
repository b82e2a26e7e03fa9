"""The images that a defense may fit its parameters to: train and validation parts, never what is evaluated."""

from collections.abc import Iterator

import torch

from gauntlet.data.dataset import Batch, Dataset, Split
from gauntlet.errors import UserError

BATCH = 256


class FittingImages:
    """Train and validation images of a data set, on a device.

    Args:
        dataset: of which the test part is withheld.
        device: on which images and labels come.

    Attributes:
        digests: part -> digest, of the parts that were asked for.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self._dataset, self.device = dataset, device
        self.classes = dataset.classes
        self.digests: dict[str, str] = {}

    def batches(self, part: str, most: int | None = None) -> Iterator[Batch]:
        """Yield the images of a part, at most so many; those of each batch by rising ids.

        Raises:
            UserError: the part is the test part, is not there, or is the very images that are evaluated.
        """
        split = self._split(part)
        count = len(split) if most is None else min(most, len(split))
        for start in range(0, count, BATCH):
            batch = split.read(slice(start, min(start + BATCH, count)))
            order = batch.ids.argsort()
            yield Batch(*(tensor[order].to(self.device) for tensor in batch))

    def _split(self, part: str) -> Split:
        if part not in ("train", "validation"):
            raise UserError(f"a defense asks for the {part} images, which are evaluated; fit it to train or validation")
        split = self._dataset.split(part)
        if part not in self.digests:
            self.digests[part] = split.digest()
            if self.digests[part] == self._dataset.split("test").digest():
                raise UserError(
                    f"the {part} part of {self._dataset.name} is its test part: a defense that is fitted to it proves "
                    "nothing; give the data set a part of its own for that"
                )
        return split

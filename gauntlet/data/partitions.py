"""A training set cut into pieces by a hash of each image, so that one image more or less changes one piece."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gauntlet.data.dataset import Batch, Dataset, Split, Spread
from gauntlet.errors import UserError

Ints = NDArray[np.int64]

HASHES = ("sum", "content")

LEVELS = 255
"""Pixels are counted in these steps."""

SHIFTS_SEED = 999999999 + 208
"""Of the distances between the networks of a bucket, as in the released code of Finite Aggregation."""

READ = 1024
"""Images that are hashed at once."""


@dataclass(frozen=True)
class Buckets:
    """Which buckets train which networks.

    There are `partitions * copies` of each. Bucket b trains the networks b + s modulo their number, for `copies`
    shifts s, so that a network sees as many images as with one bucket each (Wang et al. 2022, arXiv 2202.02628).

    Args:
        partitions: the share of the training set that a network sees is one of so many.
        copies: networks that a bucket trains; 1: disjoint partitions (Levine and Feizi 2021, arXiv 2006.14768).
        hashed: "sum", the sum of the pixels as in these papers, or "content", a SHA-256 of them, which is even where
            images have few levels of gray.
    """

    partitions: int
    copies: int = 1
    hashed: str = "sum"

    @property
    def count(self) -> int:
        """Return how many buckets, and networks, there are."""
        return self.partitions * self.copies

    @cached_property
    def shifts(self) -> Ints:
        """Return the distances between a bucket and its networks, int64 [copies], distinct."""
        drawn = random.Random(SHIFTS_SEED).sample(range(self.count), self.copies)
        return np.array(drawn if self.copies > 1 else [0], np.int64)

    @property
    def reached(self) -> Ints:
        """Return the networks that each bucket trains, int64 [count, copies]."""
        return (np.arange(self.count)[:, None] + self.shifts) % self.count

    def of_network(self, network: int) -> Ints:
        """Return the buckets that train a network, int64 [copies]."""
        return (network - self.shifts) % self.count

    def of_images(self, x: Tensor) -> Ints:
        """Return the bucket of each image x [B, C, H, W] in [0, 1]: the hash of its pixels, as whole numbers, modulo
        their number, int64 [B]. The label does not count, so that another label changes one bucket."""
        steps = (x.double() * LEVELS).round().long().flatten(1).cpu().numpy()
        if self.hashed == "sum":
            found: Ints = steps.sum(1) % self.count
            return found
        hashes = (hashlib.sha256(image.astype("<i8").tobytes()).digest()[:8] for image in steps)
        return np.array([int.from_bytes(each, "little") % self.count for each in hashes], np.int64)


class BucketedTrainingSet:
    """The training part of a data set with the bucket of each image and an order that depends on content alone.

    Args:
        dataset: whose `train` part is read once.
        buckets: how it is cut.
    """

    def __init__(self, dataset: Dataset, buckets: Buckets) -> None:
        self.dataset, self.buckets, self._split = dataset, buckets, dataset.split("train")
        homes, keys = [], []
        for start in range(0, len(self._split), READ):
            batch = self._split.read(slice(start, start + READ))
            homes.append(buckets.of_images(batch.x))
            keys += [_content(image, int(label)) for image, label in zip(batch.x, batch.y, strict=True)]
        self._homes = np.concatenate(homes) if homes else np.zeros(0, np.int64)
        self._keys = keys

    def of_network(self, network: int) -> "NetworkShare":
        """Return the data set that trains one network.

        Raises:
            UserError: it has fewer than two images, of which nothing can be trained.
        """
        mine = np.flatnonzero(np.isin(self._homes, self.buckets.of_network(network)))
        ordered = sorted(mine.tolist(), key=lambda at: self._keys[at])
        if len(ordered) < 2:
            raise UserError(
                f"network {network} of {self.buckets.count} would be trained on {len(ordered)} images; take fewer "
                "partitions, or defense.parts.model.hashed=content, which shares images out more evenly"
            )
        digest = hashlib.sha256("".join(self._keys[at] for at in ordered).encode()).hexdigest()
        return NetworkShare(self.dataset, _Members(self._split, ordered, f"sha256:{digest}"))


@dataclass(frozen=True)
class NetworkShare:
    """What one network may know: its share of the training part, which is also what it is validated on.

    Nothing else of the data set reaches it, and neither does the order in which images are stored: a training that
    depends on this alone is the same whatever happens in other buckets.

    Args:
        dataset: whose other properties it has.
        members: the images.
    """

    dataset: Dataset
    members: "_Members"

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def classes(self) -> int:
        return self.dataset.classes

    @property
    def channels(self) -> int:
        return self.dataset.channels

    @property
    def size(self) -> int:
        return self.dataset.size

    @property
    def budgets(self) -> dict[str, str | float]:
        return self.dataset.budgets

    def split(self, part: str) -> Split:
        """Return the share for `train` and `validation`, and the whole test part."""
        return self.dataset.split(part) if part == "test" else self.members

    def release(self) -> None:
        """Forget the images that were read; they are read again when they are asked for."""
        self.members.held.clear()


@dataclass(frozen=True)
class _Members:
    """Images of a split in another order, numbered from 0 by that order."""

    source: Split
    positions: Sequence[int]
    content: str
    held: list[Batch] = field(default_factory=list)

    @property
    def ids(self) -> Ints:
        return np.arange(len(self.positions))

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, positions: Sequence[int] | slice, spread: Spread = map) -> Batch:
        if not self.held:  # a share is small: it is read once, until it is released
            self.held.append(self.source.read(list(self.positions), spread))
        at = torch.arange(len(self))[positions] if isinstance(positions, slice) else torch.as_tensor(positions)
        _, x, y = self.held[0]
        return Batch(at, x[at], y[at])

    def digest(self) -> str:
        return self.content

    def selection(self) -> str:
        return "all"


def _content(image: Tensor, label: int) -> str:
    """Return what an image with its label is known and ordered by."""
    return hashlib.sha256(image.contiguous().numpy().tobytes() + label.to_bytes(8, "little")).hexdigest()

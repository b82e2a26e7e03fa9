"""Many networks, each trained on its own share of the training set: one part of a defense."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gauntlet.data import Dataset
from gauntlet.data.partitions import HASHES, BucketedTrainingSet, Buckets, NetworkShare
from gauntlet.errors import UserError
from gauntlet.models import checkpoint
from gauntlet.models.voting_networks import VotingNetworks
from gauntlet.system.lock import holder
from gauntlet.system.progress import Bar
from gauntlet.tracking import Tracker
from gauntlet.training.loop import BEST
from gauntlet.training.trained_network import NOTHING, UNTRACKED, LoadedNetwork, TrainedNetwork


@dataclass(frozen=True)
class PartitionedNetworks(TrainedNetwork):
    """`partitions * copies` networks, each trained on the buckets that are its own (see
    `gauntlet.data.partitions.Buckets`).

    A network depends on its share alone: the images in an order of their content, the recipe, and a seed that is
    its number plus `seed`. It is validated on what it is trained on, since a validation part that all networks share
    would be a way to all of them at once. Each is trained once and kept by itself, so that a run that was interrupted
    goes on where it was; processes at the same runs folder, such as the shards of a run, share the trainings.

    Args:
        partitions, copies, hashed: as of `Buckets`.
        model, recipe, seed: as of `TrainedNetwork`; there are no weights of a file, and no other parts are used.

    Raises:
        UserError: a number out of range, or weights of a file.
    """

    partitions: int = 50
    copies: int = 1
    hashed: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("partitions", self.partitions), ("copies", self.copies)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{name} of partitioned networks must be a whole number of at least 1, not {value}")
        if self.hashed not in HASHES:
            raise UserError(f"hashed={self.hashed} is unknown; choose one of {', '.join(HASHES)}")
        if self.copies > self.partitions:
            raise UserError(f"copies={self.copies} of each bucket need as many partitions; there are {self.partitions}")
        if self.weights not in (None, "included") or self.uses:
            raise UserError(
                "networks of partitions are trained, each by itself; leave out weights and uses of that part"
            )

    @property
    def buckets(self) -> Buckets:
        """Return which buckets train which networks."""
        return Buckets(self.partitions, self.copies, self.hashed)

    def members(self, dataset: Dataset) -> Iterator[tuple[str, TrainedNetwork, NetworkShare]]:
        """Yield each network: its name within the module, how it comes about, and what it is trained on."""
        cut = BucketedTrainingSet(dataset, self.buckets)
        for number in range(self.buckets.count):
            alone = TrainedNetwork(self.model, self.recipe, self.weights, seed=self.seed + number)
            yield f"networks.{number}", alone, cut.of_network(number)

    def load(
        self,
        dataset: Dataset,
        cache: Path,
        *,
        given: Mapping[str, nn.Module] = NOTHING,
        device: torch.device | str = "cpu",
        progress: bool = True,
        tracker: Tracker = UNTRACKED,
        train: bool = True,
    ) -> LoadedNetwork:
        """Return all networks as one module. Arguments and exceptions are those of `TrainedNetwork.load`."""
        members = list(self.members(dataset))
        if train and self.weights is None:
            self._train(members, cache, device, progress)
        found = [part.load(data, cache, device=device, progress=False, train=False) for _, part, data in members]
        module = VotingNetworks([each.module for each in found])
        module.requires_grad_(False).eval()
        words = self.weights or f"trained on {self.partitions} partitions" + f", {self.copies} copies" * (
            self.copies > 1
        )
        return LoadedNetwork(module, checkpoint.digest(module), words)

    def _train(
        self,
        members: list[tuple[str, TrainedNetwork, NetworkShare]],
        cache: Path,
        device: torch.device | str,
        progress: bool,
    ) -> None:
        """Train what is not there, first what nobody else is at."""
        waiting = []
        for _, part, data in members:
            folder = part.folder(data, cache, part.key(data))
            if not (folder / BEST).exists():
                waiting.append((folder, part, data))
        if not waiting:
            return
        done = len(members) - len(waiting)
        with Bar(desc="partitions", total=len(members), initial=done, unit=" networks", shown=progress) as bar:
            for patient in (False, True):
                for folder, part, data in [*waiting]:
                    if not patient and holder(folder, "train") is not None:
                        continue
                    part.train(data, cache, device=device, progress=False)
                    data.release()
                    waiting.remove((folder, part, data))
                    bar.update(1)

"""Streams of different names for the rows of one batch: each row draws what it would draw in its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gauntlet.threat_model.rng import Rng, drawn, key_of


class MergedRng(Rng):
    """A stream for each row; ids, streams and draws are those of the rows, wherever they came from.

    Args:
        seed: of all streams.
        ids: sample ids, int64 [B].
        names: of the streams, each once.
        which: of each row, the position of its stream in `names`, int64 [B].
    """

    def __init__(self, seed: int, ids: Tensor, names: Sequence[str], which: Tensor) -> None:
        for name, value in (("seed", seed), ("ids", ids), ("names", tuple(names)), ("which", which)):
            object.__setattr__(self, name, value)

    names: tuple[str, ...]
    which: Tensor

    @property
    def name(self) -> str:
        """Refuse: there is no one name. A forward that asks for it is passed the images of one stream only."""
        raise AttributeError("rows of several streams have no one name; draw from rng.stream(...)")

    def stream(self, name: object) -> "MergedRng":
        return MergedRng(self.seed, self.ids, [f"{each}/{name}" for each in self.names], self.which)

    def select(self, index: Tensor | slice) -> "MergedRng":
        return MergedRng(self.seed, self.ids[index], self.names, self.which[index])

    def bits(self, shape: tuple[int, ...], draw: int | Tensor = 0) -> Tensor:
        keys = torch.tensor([key_of(self.seed, name) for name in self.names], device=self.ids.device)[self.which]
        return drawn(self.ids, (keys[:, :1], keys[:, 1:]), shape, draw)


def merged(parts: Sequence[Rng]) -> Rng:
    """Return the streams of some batches side by side, as that of one batch; all have one seed, and none is merged."""
    first, ids = parts[0], torch.cat([part.ids for part in parts])
    names = list(dict.fromkeys(part.name for part in parts))
    if len(names) == 1:
        return Rng(first.seed, ids, first.name)
    sizes = torch.tensor([len(part.ids) for part in parts], device=ids.device)
    which = torch.tensor([names.index(part.name) for part in parts], device=ids.device)
    return MergedRng(first.seed, ids, names, which.repeat_interleave(sizes, output_size=len(ids)))

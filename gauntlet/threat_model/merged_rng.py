"""Streams of different names for the rows of one batch: each row draws what it would draw in its own."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from gauntlet.threat_model.rng import Rng, drawn, key_of

Rows = Callable[[], tuple[Tensor, Tensor]]
"""Gives the sample id of each row and the position of its stream in a list of names, both int64 [B]."""


class MergedRng(Rng):
    """A stream for each row; ids, streams and draws are those of the rows, wherever they came from.

    Args:
        seed: of all streams.
        names: of the streams, each once.
        rows: asked only where numbers are drawn, or ids wanted.
    """

    def __init__(self, seed: int, names: Sequence[str], rows: Rows) -> None:
        for name, value in (("seed", seed), ("names", tuple(names)), ("_rows", cache(rows))):
            object.__setattr__(self, name, value)

    names: tuple[str, ...]
    _rows: Rows

    @property
    def ids(self) -> Tensor:
        return self._rows()[0]

    @property
    def name(self) -> str:
        """Return the name of the stream, where it is one.

        Raises:
            AttributeError: there are several. A forward that asks for it is passed the images of one stream only.
        """
        if len(self.names) == 1:
            return self.names[0]
        raise AttributeError("rows of several streams have no one name; draw from rng.stream(...)")

    def stream(self, name: object) -> "MergedRng":
        return MergedRng(self.seed, [f"{each}/{name}" for each in self.names], self._rows)

    def select(self, index: Tensor | slice) -> "MergedRng":
        ids, which = self._rows()
        return MergedRng(self.seed, self.names, lambda: (ids[index], which[index]))

    def bits(self, shape: tuple[int, ...], draw: int | Tensor = 0) -> Tensor:
        ids, which = self._rows()
        keys = torch.tensor([key_of(self.seed, name) for name in self.names], device=ids.device)[which]
        return drawn(ids, (keys[:, :1], keys[:, 1:]), shape, draw)


def merged(parts: Sequence[tuple[Rng, slice]]) -> Rng:
    """Return the streams of some rows of some batches, side by side, as that of one batch; all have one seed, and none
    is merged.
    """
    names = list(dict.fromkeys(rng.name for rng, _ in parts))

    def rows() -> tuple[Tensor, Tensor]:
        ids = [rng.ids[some] for rng, some in parts]
        sizes = torch.tensor([len(each) for each in ids], device=ids[0].device)
        which = torch.tensor([names.index(rng.name) for rng, _ in parts], device=ids[0].device)
        return torch.cat(ids), which.repeat_interleave(sizes, output_size=sum(map(len, ids)))

    return MergedRng(parts[0][0].seed, names, rows)

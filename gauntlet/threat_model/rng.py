"""Random draws that are a function of (seed, stream, sample id, draw number) and of nothing else.

The generator is Philox4x32-10, counter based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011):
the key is the seed and the stream, the counter is the sample id, the draw number and the position in the image. So a
sample gets the same numbers in any batch, shard, order, process and device, and no state is kept or shared.
"""

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


@dataclass(frozen=True)
class Rng:
    """A named stream of draws for the samples of one batch.

    Args:
        seed: of the run, 0 <= seed < 2**63.
        ids: sample ids, int64 [B], on the device where the draws are wanted.
        name: path of the stream; streams of different names are independent.
    """

    seed: int
    ids: Tensor
    name: str = ""

    def stream(self, name: object) -> "Rng":
        """Return the stream below this one with that name."""
        return Rng(self.seed, self.ids, f"{self.name}/{name}")

    def select(self, index: Tensor | slice) -> "Rng":
        """Return the same stream for some of the samples; index: a mask bool [B], positions int64 [b] or a slice."""
        return replace(self, ids=self.ids[index])

    def bits(self, shape: tuple[int, ...], draw: int | Tensor = 0) -> Tensor:
        """Return uniform integers in [0, 2**32), int64 [B, *shape]. draw: one number, or one for each sample, int64
        [B].
        """
        return drawn(self.ids, key_of(self.seed, self.name), shape, draw)

    def uniform(
        self,
        shape: tuple[int, ...],
        low: float = 0.0,
        high: float = 1.0,
        draw: int | Tensor = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Return uniform in [low, high), with 24 random bits, [B, *shape]: the same values in every floating dtype."""
        unit = (self.bits(shape, draw) >> 8).to(dtype) * 2.0**-24
        return low + (high - low) * unit

    def normal(self, shape: tuple[int, ...], draw: int | Tensor = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal by inversion, with 32 random bits (so within 6.3 standard deviations), [B, *shape]."""
        unit = (self.bits(shape, draw).to(torch.float64) + 0.5) * 2.0**-32
        gauss: Tensor = torch.special.ndtri(unit)
        return gauss.to(dtype)

    def integers(self, shape: tuple[int, ...], high: int, draw: int | Tensor = 0) -> Tensor:
        """Return uniform in {0, ..., high - 1}, int64 [B, *shape]; the bias is below high / 2**32."""
        return (self.bits(shape, draw) * high) >> 32


Key = tuple[int, int] | tuple[Tensor, Tensor]
"""Two words of 32 bits, for all samples or int64 [B, 1] for each."""


def drawn(ids: Tensor, key: Key, shape: tuple[int, ...], draw: int | Tensor) -> Tensor:
    """Return uniform integers in [0, 2**32) of these samples, int64 [B, *shape]; draw: as in `Rng.bits`."""
    count = math.prod(shape)
    blocks = torch.arange((count + 3) // 4, device=ids.device)
    counter = (
        (ids & _MASK)[:, None],
        ((ids >> 32) & _MASK)[:, None],
        (torch.as_tensor(draw, device=ids.device) & _MASK).reshape(-1, 1),
        blocks[None, :],
    )
    words = torch.stack(philox(counter, key), dim=-1)
    return words.flatten(1)[:, :count].reshape(len(ids), *shape)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Key) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32 on 32-bit words held in int64 tensors that broadcast against each other."""
    a, b, c, d = torch.broadcast_tensors(*counter)  # type: ignore[no-untyped-call]
    low, high = key
    for _ in range(10):
        # The 64-bit product wraps as a signed integer; its upper word survives the arithmetic shift under the mask.
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            ((second >> 32) & _MASK) ^ b ^ low,
            second & _MASK,
            ((first >> 32) & _MASK) ^ d ^ high,
            first & _MASK,
        )
        low, high = (low + _WEYL[0]) & _MASK, (high + _WEYL[1]) & _MASK
    return a, b, c, d


def key_of(seed: int, name: str) -> tuple[int, int]:
    """Return the key of a stream."""
    word = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(word[:4], "little"), int.from_bytes(word[4:], "little")

"""The cut of a split into chunks, and of the chunks into shards."""

from collections.abc import Iterator


def chunk_positions(samples: int, size: int, index: int) -> slice:
    """Positions of chunk `index` of a split."""
    return slice(index * size, min((index + 1) * size, samples))


def chunks_of(samples: int, size: int, shards: int, shard: int) -> Iterator[int]:
    """The chunks that a shard takes: index = shard modulo shards."""
    return iter(range(shard, -(-samples // size), shards))

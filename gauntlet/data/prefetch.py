"""Reads the next images in the background while the ones before are at work.

Threads do it: decoding an image, decompressing and reading a file all happen outside of Python's lock, nothing has to
be pickled or copied between processes, and a thread that has nothing to do sleeps.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import Any

from gauntlet.data.dataset import Batch, Split, Spread

PIECES = 4
"""Pieces that each thread gets of a batch: more even out their lengths, and cost more."""


def batches(split: Split, positions: Sequence[slice], workers: int) -> Iterator[Batch]:
    """The batches at these positions, in this order. One that is being read and the one handed out are in memory.

    Labels that a network predicts (`split.labeled`) are predicted in the caller's thread, where the network is at work.

    An error in the background is raised where its batch would have come: whatever came before is not lost.

    Args:
        workers: threads that decode; 0: each batch is read when it is asked for, in the caller's thread.

    Raises:
        UserError: an image cannot be read.
    """
    if labeled := getattr(split, "labeled", None):
        yield from map(labeled, batches(split.source, positions, workers))  # type: ignore[attr-defined]
        return
    if not workers:
        yield from map(split.read, positions)
        return
    with ExitStack() as stack:
        reader = stack.enter_context(ThreadPoolExecutor(1, "read"))
        stack.callback(reader.shutdown, wait=False, cancel_futures=True)
        read = split.read
        if workers > 1:
            pool = stack.enter_context(ThreadPoolExecutor(workers, "decode"))
            read = partial(split.read, spread=_spread(pool, workers))
        coming = [reader.submit(read, at) for at in positions[:1]]
        for at in positions[1:]:
            batch = coming.pop().result()
            coming.append(reader.submit(read, at))
            yield batch
            del batch  # or it would still be held while the next one is waited for
        if coming:
            yield coming.pop().result()


def _spread(pool: ThreadPoolExecutor, workers: int) -> Spread:
    """A `map` whose calls the threads of a pool make, a run of neighbors each; results come in order."""

    def spread(call: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
        size = -(-len(items) // (PIECES * workers)) or 1
        pieces = [items[start : start + size] for start in range(0, len(items), size)]
        return chain.from_iterable(pool.map(lambda piece: [call(item) for item in piece], pieces))

    return spread

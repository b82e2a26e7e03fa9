"""The random draws of a training that belong to no sample: the order of the data, and what layers draw themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from harness.rng import Rng


def shuffle(ids: Tensor, seed: int, epoch: int) -> Tensor:
    """Positions [n] in the order of the epoch: a function of the sample ids, the seed and the epoch."""
    return Rng(seed, ids, f"order/{epoch}").bits((1,)).squeeze(1).argsort(stable=True)


@contextmanager
def seeded(seed: int, name: str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Torch's global generator is a function of (seed, name) inside, and is as before afterwards.

    For draws that no Rng reaches: the initial weights of a network, dropout.
    """
    word = int(Rng(seed, torch.zeros(1, dtype=torch.int64), name).bits((1,)))
    place = torch.device(device)
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        torch.manual_seed(word)
        yield

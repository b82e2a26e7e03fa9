"""How many draws a gradient of a random head needs: measured, not guessed (expectation over transformation).

Athalye et al. 2018, arXiv 1707.07397, average the gradient over draws. Too few, and steps follow the noise; too many,
and every step is paid for twice.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Victim

PROBE = 8
"""Images on which draws are counted."""

AGREEMENT = 0.9
"""Mean cosine between the gradient over n draws and another over 2 n fresh ones from which on n is enough."""

MOST = 64
"""Draws at which the search ends, agreed or not."""


def check_draws(draws: int, victim: Victim) -> None:
    """Refuse a number of draws that nothing is averaged over. Raises UserError."""
    if draws < 1:
        raise UserError(f"draws={draws} must be at least 1; leave it out for what the defense declares")
    if not _averages(victim):
        raise UserError(f"draws={draws} is for gradients of a random defense, and this one is not; leave draws out")


def measure(
    victim: Victim, batch: Batch, seed: int, asked: int | None = None, gradients: bool = True
) -> dict[str, dict[str, Any]]:
    """Return head -> {"draws": n, "cosine": agreement at n}, for every head whose gradient is a mean.

    Those are the heads of a randomized victim, and those that declare draws. A head without randomness gets one draw. A
    random one gets at least two: those that it declares, or the first of 2, 4, 8, ... with which the gradient of the
    margin agrees with itself where it declares 0. At most 3 `MOST` passes of `PROBE` images for each head.

    Args:
        batch: images to measure on; the first `PROBE` are used.
        asked: at least so many on every random head; None: no such wish.
        gradients: whether the attacker has them; else nothing is measured, and a head that declares 0 draws gets two.
    """
    if not _averages(victim):
        return {}
    few = batch.ids.argsort()[:PROBE]
    ids, x, y = (t[few] for t in batch)
    found: dict[str, dict[str, Any]] = {}
    for head in victim.heads:
        counted = CountedHead(replace(head, draws=1), head.forward, Counts.of(ids))
        rng = Rng(seed, ids, f"draws/{head.name}")
        if _still(counted, x, y, rng, gradients):
            found[head.name] = {"draws": 1}
        elif head.draws or not gradients:
            found[head.name] = {"draws": max(head.draws, asked or 0, 2)}
        else:
            n, cosine = _enough(counted, x, y, rng)
            found[head.name] = {"draws": max(n, asked or 0), "cosine": round(cosine, 4)}
    return found


def _averages(victim: Victim) -> bool:
    return victim.randomized or any(head.draws != 1 for head in victim.heads)


def settled(victim: Victim, found: dict[str, dict[str, Any]]) -> Victim:
    """Return the victim with the draws that were found."""
    heads = {head.name: replace(head, draws=found.get(head.name, {}).get("draws", head.draws)) for head in victim.heads}
    surrogates = tuple(heads[head.name] for head in victim.surrogates)
    return replace(victim, surrogates=surrogates, draws=heads[victim.heads[0].name].draws)


def _still(counted: CountedHead, x: Tensor, y: Tensor, rng: Rng, gradients: bool) -> bool:
    """Return whether two draws give the same, bit for bit."""
    if not gradients:
        return torch.equal(*(counted.scores(x, rng.stream(k)) for k in range(2)))
    one, other = (counted.gradient(x, partial(_margin, y=y), rng.stream(k)) for k in range(2))
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def _enough(counted: CountedHead, x: Tensor, y: Tensor, rng: Rng) -> tuple[int, float]:
    """Return the draws at which the search ends, and the agreement there."""
    sums, known, n = _sums(counted, x, y, rng), [torch.zeros_like(x)], 2
    while True:
        while len(known) <= 3 * n:
            known.append(next(sums))
        cosine = _agreement(known[n], known[3 * n] - known[n])
        if cosine > AGREEMENT or n >= MOST:
            return n, cosine
        n *= 2


def _sums(counted: CountedHead, x: Tensor, y: Tensor, rng: Rng) -> Iterator[Tensor]:
    """The sum of the gradients of the margin over the first 1, 2, 3, ... draws."""
    total, number = torch.zeros_like(x), 0
    while True:
        total = total + counted.gradient(x, partial(_margin, y=y), rng.stream(number))[1]
        number += 1
        yield total


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of the margin with respect to the logits: the best other class up, the true one down."""
    rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    towards: Tensor = nn.functional.one_hot(rival, logits.shape[1]) - nn.functional.one_hot(y, logits.shape[1])
    return towards.to(logits.dtype)


def _agreement(one: Tensor, other: Tensor) -> float:
    """Return the mean cosine over the images that have both gradients; 1 where none has: more draws would not help."""
    one, other = one.flatten(1).double(), other.flatten(1).double()
    there = (one.abs().amax(1) > 0) & (other.abs().amax(1) > 0)
    if not there.any():
        return 1.0
    return float(nn.functional.cosine_similarity(one[there], other[there]).mean())

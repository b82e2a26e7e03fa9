"""How many changes of the training set a prediction survives, from what each of many networks says. Imports no torch.

The training set is cut into buckets by a hash of each image alone, and every bucket trains some of the networks. One
image more or less, or another label, changes one bucket, and with it whatever the networks of this bucket say.

- Deep Partition Aggregation (Levine and Feizi 2021, arXiv 2006.14768): a bucket for each network, and a majority.
- Finite Aggregation (Wang, Levine and Feizi 2022, arXiv 2202.02628): a bucket trains several networks.
- Run-Off Election (Rezaei et al. 2023, arXiv 2302.02300): the networks choose between the two classes with most votes.

Between classes with as many votes the one with the smaller number wins. To overtake a class a, a class c has to close
the gap of their votes, N_a - N_c + [c > a]; a bucket whose networks say anything an attacker wants closes at most its
power, and the largest powers together give the least number of buckets that may do.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Votes = NDArray[np.bool_]


def needed(gap: Ints, power: Ints) -> Ints:
    """Return how many buckets can close a gap at least.

    Args:
        gap: int64 [...]; closed where it is not positive.
        power: what each bucket closes at most, int64 [..., buckets], >= 0.

    Returns:
        int64 [...]; one more than there are buckets where all of them together do not.
    """
    closed = np.cumsum(-np.sort(-power, axis=-1), axis=-1)
    return np.where(gap > 0, 1 + (closed < gap[..., None]).sum(-1), 0)


class Ballot:
    """What networks say of images, and which of them a bucket reaches.

    Args:
        scores: float [networks, n, classes], finite; of equal scores that of the smaller class counts as larger.
        reached: networks that each bucket trains, int64 [buckets, copies].
    """

    def __init__(self, scores: NDArray[np.floating], reached: Ints) -> None:
        self.scores, self.reached = scores, reached
        self.networks, self.images, self.classes = scores.shape
        choice = scores.argmax(2).T  # the first of equal ones; [n, networks]
        self.said: Votes = choice[:, None, :] == np.arange(self.classes)[None, :, None]  # [n, classes, networks]
        self.votes: Ints = self.said.sum(2).astype(np.int64)  # [n, classes]

    def prefers(self, one: Ints, other: Ints) -> Votes:
        """Return which networks place a class of each image before another, bool [n, networks]; one, other: [n]."""
        at = np.arange(self.images)
        first, second = self.scores[:, at, one].T, self.scores[:, at, other].T
        found: Votes = (first > second) | ((first == second) & (one < other)[:, None])
        return found

    def majority(self) -> Ints:
        """Return the class with most votes, int64 [n]."""
        found: Ints = self.votes.argmax(1).astype(np.int64)
        return found

    def finalists(self) -> tuple[Ints, Ints]:
        """Return the two classes with most votes, the first one first, each int64 [n]."""
        order = np.argsort(-self.votes, axis=1, kind="stable")
        return order[:, 0].astype(np.int64), order[:, 1].astype(np.int64)

    def elected(self) -> tuple[Ints, Ints]:
        """Return who wins the run-off, and the other finalist, each int64 [n]."""
        first, second = self.finalists()
        low, high = np.minimum(first, second), np.maximum(first, second)
        lower = 2 * self.prefers(low, high).sum(1) >= self.networks
        return np.where(lower, low, high), np.where(lower, high, low)

    def overtaken(self, by: Ints, leader: Ints) -> Ints:
        """Return the changes that class `by` needs to overtake `leader` in votes, at least; all [n]; 0: it has."""
        return needed(self._gap(by, leader), self._power(1 + self._of(leader).astype(np.int64) - self._of(by)))

    def both_overtaken(self, by: Ints, too: Ints, leader: Ints) -> Ints:
        """Return the changes with which two classes overtake `leader` in votes, at least; all [n]."""
        gaps = [np.maximum(self._gap(each, leader), 0) for each in (by, too)]
        closes = 1 + 2 * self._of(leader).astype(np.int64) - self._of(by) - self._of(too)
        alone = np.maximum(self.overtaken(by, leader), self.overtaken(too, leader))
        return np.maximum(alone, needed(gaps[0] + gaps[1], self._power(closes)))

    def outvoted(self, by: Ints, leader: Ints) -> Ints:
        """Return the changes with which `by` wins a run-off against `leader`, at least; all [n]."""
        ahead = self.prefers(leader, by).astype(np.int64)
        gap = 2 * ahead.sum(1) - self.networks + (by > leader)
        return needed(gap, self._power(2 * ahead))

    def _of(self, classes: Ints) -> Votes:
        found: Votes = self.said[np.arange(self.images), classes]
        return found

    def _gap(self, by: Ints, leader: Ints) -> Ints:
        at = np.arange(self.images)
        gap: Ints = self.votes[at, leader] - self.votes[at, by] + (by > leader)
        return gap

    def _power(self, closes: Ints) -> Ints:
        """Return what each bucket closes, [n, buckets], from what each network does, [n, networks]."""
        power: Ints = closes[:, self.reached].sum(2)
        return power


def majority_certificate(ballot: Ballot) -> tuple[Ints, Ints]:
    """Return the class with most votes, and the changes that it survives in any case, each int64 [n].

    With one network a bucket that is floor((N_a - max_c (N_c + [c < a])) / 2).
    """
    own = ballot.majority()
    least = _least(ballot, own, lambda other: ballot.overtaken(other, own), 1)
    return own, least - 1


def runoff_certificate(ballot: Ballot) -> tuple[Ints, Ints]:
    """Return the class that wins the run-off, and the changes that it survives in any case, each int64 [n].

    It is lost where two classes overtake it in votes, so that it is not in the run-off, or where another class is in it
    and wins.
    """
    own, rival = ballot.elected()

    def beaten(other: Ints) -> Ints:
        enters = np.where(other == rival, 0, ballot.overtaken(other, rival))
        return np.maximum(enters, ballot.outvoted(other, own))

    least = _least(ballot, own, beaten, 1)
    if ballot.classes > 2:
        kept_out = _least(ballot, own, lambda by, too: ballot.both_overtaken(by, too, own), 2)
        least = np.minimum(least, kept_out)
    return own, least - 1


def _least(ballot: Ballot, own: Ints, changes: Callable[..., Ints], count: int) -> Ints:
    """Return the least changes over all choices of so many classes other than each image's own."""
    least = np.full(ballot.images, len(ballot.reached) + 1, np.int64)
    for chosen in combinations(range(ballot.classes - 1), count):
        others = [number + (number >= own) for number in chosen]  # skips the own class of each image
        least = np.minimum(least, changes(*others))
    return least

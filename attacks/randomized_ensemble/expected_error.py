"""The expectation over a mixture that an attacker lowers: exact, from what each member says."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.losses import margins
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

TIE = 1e-9
"""Sums of probabilities that are nearer to each other are equal."""


class Seen(NamedTuple):
    """What the members say of candidates."""

    wrong: Tensor  # bool [M, B]
    error: Tensor  # the sum of the probabilities of those that are wrong, float64 [B]
    value: Tensor  # how near they are to being wrong, for candidates of equal error: minus the mean margin, [B]
    done: Tensor  # whether nothing is left to gain, bool [B]

    def select(self, index: Tensor) -> "Seen":
        """Of some of the samples; positions int64 [b]."""
        return Seen(self.wrong[:, index], self.error[index], self.value[index], self.done[index])

    def enter(self, where: Tensor, new: "Seen") -> None:
        """Replace what is known of the samples at these positions, in place."""
        self.wrong[:, where] = new.wrong
        for mine, other in zip(self[1:], new[1:], strict=True):
            mine[where] = other


@dataclass(frozen=True)
class Mixture:
    """The members of a mixture and their probabilities; a head that is no mixture is its only member.

    Attributes:
        members: in the order in which they are declared.
        weights: their probabilities, float64 [M], of sum one.
    """

    members: tuple[CountedHead, ...]
    weights: Tensor

    @classmethod
    def of(cls, head: CountedHead, x: Tensor) -> "Mixture":
        """What is behind a head; the weights are on the device of x."""
        members = head.members
        raw = [member.head.weight for member in members] if len(members) > 1 else [1.0]
        weights = torch.tensor(raw, dtype=torch.float64, device=x.device)
        return cls(members, weights / weights.sum())

    def look(self, z: Tensor, y: Tensor, rng: Rng) -> Seen:
        """One forward of each member. z: [B, C, H, W]; y: int64 [B]."""
        logits = torch.stack([member.scores(z, rng.stream(member.head.name)) for member in self.members])
        return self.seen(logits, z, y, rng)

    def seen(self, logits: Tensor, z: Tensor, y: Tensor, rng: Rng) -> Seen:
        """The same of logits [M, B, K] that are known already. A head that is no mixture says itself what is found."""
        wrong = logits.argmax(2) != y
        left = torch.stack([margins(each, y) for each in logits]).double()
        error, value = self.error(wrong), -(self.weights[:, None] * left).sum(0)
        done = error > 1 - TIE
        if len(self.members) == 1:
            done = self.members[0].broken(z, logits[0], y, rng, plain=True)
        return Seen(wrong, error, value, done)

    def error(self, wrong: Tensor) -> Tensor:
        """The probability of a wrong answer, float64 [B]. wrong: bool [M, B]."""
        return (self.weights[:, None] * wrong).sum(0)

    def orders(self, rng: Rng, count: int, drawn: bool) -> Tensor:
        """An order of the members for each sample, int64 [B, M]: drawn by their probabilities, or by falling ones
        and of equals the last first."""
        if not drawn:
            return self.weights.argsort(dim=0, stable=True).flip(0).expand(count, -1)
        unit = rng.uniform((len(self.members),), dtype=torch.float64) + 2.0**-25
        return (self.weights.log() - (-unit.log()).log()).argsort(dim=1, descending=True, stable=True)


class Worst(NamedTuple):
    """The candidate of each sample with the largest error so far; of equals the one that is nearer to more."""

    z: Tensor  # [B, C, H, W]
    error: Tensor  # float64 [B]
    value: Tensor  # [B]
    done: Tensor  # bool [B]

    @classmethod
    def start(cls, x: Tensor, seen: Seen) -> "Worst":
        """Of the images themselves."""
        return cls(x.clone(), seen.error.clone(), seen.value.clone(), seen.done.clone())

    def open(self) -> Tensor:
        """Positions of the samples from which something can still be gained, int64 [b]."""
        return (~self.done).nonzero().squeeze(1)

    def note(self, index: Tensor, z: Tensor, seen: Seen) -> None:
        """Enter candidates of the samples at `index`, in place."""
        level = (seen.error - self.error[index]).abs() <= TIE
        better = (seen.error > self.error[index] + TIE) | (level & (seen.value > self.value[index])) | seen.done
        rows = (better & ~self.done[index]).nonzero().squeeze(1)
        where = index[rows]
        self.z.index_copy_(0, where, z.index_select(0, rows))
        for mine, new in ((self.error, seen.error), (self.value, seen.value), (self.done, seen.done)):
            mine[where] = new[rows]


@dataclass
class Walk:
    """Where some of the samples stand, and what the members say there; z and seen change in place."""

    index: Tensor  # positions among all samples, int64 [b]
    mixture: Mixture
    x: Tensor
    y: Tensor
    threat: Threat
    z: Tensor
    seen: Seen
    rng: Rng

    def select(self, at: Tensor) -> "Walk":
        """Of some of them; positions int64."""
        return Walk(
            self.index[at], self.mixture, self.x[at], self.y[at], self.threat.select(at), self.z[at],
            self.seen.select(at), self.rng.select(at),
        )  # fmt: skip

    def enter(self, where: Tensor, z: Tensor, seen: Seen) -> None:
        """Go to other points with the samples at these positions."""
        self.z[where] = z
        self.seen.enter(where, seen)


def walks(
    mixture: Mixture, best: Worst, first: Seen, x: Tensor, y: Tensor, threat: Threat, rng: Rng, restarts: int
) -> Iterator[Walk]:
    """A walk for each restart, of the samples that are still open: the first from the image, others from random points.

    best: where starts are entered; first: what the members say of the images.
    """
    for restart in range(restarts):
        index = best.open()
        if not len(index):
            return
        below, around, here = rng.select(index).stream(restart), threat.select(index), x[index]
        if restart:
            z = around.random(here, below.stream("start"))
            seen = mixture.look(z, y[index], below.stream("started"))
            best.note(index, z, seen)
        else:
            z, seen = here.clone(), first.select(index)
        yield Walk(index, mixture, here, y[index], around, z, seen, below)

"""The expected error of a mixture: exact, from the logits of each member."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.losses import margins
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.decision import misclassified
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

TIE = 1e-9
"""Sums of probabilities that are nearer to each other are equal."""


class MixtureResult(NamedTuple):
    """The members' answers on candidates."""

    wrong: Tensor  # bool [M, B]
    error: Tensor  # the sum of the probabilities of those that are wrong, float64 [B]
    value: Tensor  # how near they are to being wrong, for candidates of equal error: minus the mean margin, [B]
    done: Tensor  # whether nothing is left to gain, bool [B]

    def select(self, index: Tensor) -> "MixtureResult":
        """Select some of the samples; positions int64 [b]."""
        return MixtureResult(self.wrong[:, index], self.error[index], self.value[index], self.done[index])

    def enter(self, where: Tensor, new: "MixtureResult") -> None:
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
        """Build the mixture behind a head; the weights are on the device of x."""
        members = head.members
        raw = [member.head.weight for member in members] if len(members) > 1 else [1.0]
        weights = torch.tensor(raw, dtype=torch.float64, device=x.device)
        return cls(members, weights / weights.sum())

    def evaluate(self, z: Tensor, y: Tensor, rng: Rng) -> MixtureResult:
        """Evaluate each member, with one forward. z: [B, C, H, W]; y: int64 [B]."""
        logits = torch.stack([member.scores(z, rng.stream(member.head.name)) for member in self.members])
        return self.evaluate_logits(logits, z, y, rng)

    def evaluate_logits(self, logits: Tensor, z: Tensor, y: Tensor, rng: Rng) -> MixtureResult:
        """Return the same of logits [M, B, K] that are known already. A head that is no mixture decides itself what is
        adversarial.
        """
        wrong = misclassified(logits, y)
        left = torch.stack([margins(each, y) for each in logits]).double()
        error, value = self.error(wrong), -(self.weights[:, None] * left).sum(0)
        done = error > 1 - TIE
        if len(self.members) == 1:
            done = self.members[0].broken(z, logits[0], y, rng, plain=True)
        return MixtureResult(wrong, error, value, done)

    def error(self, wrong: Tensor) -> Tensor:
        """Return the probability of a wrong answer, float64 [B]. wrong: bool [M, B]."""
        return (self.weights[:, None] * wrong).sum(0)

    def orders(self, rng: Rng, count: int, drawn: bool) -> Tensor:
        """Return an order of the members for each sample, int64 [B, M]: drawn by their probabilities, or by falling
        ones and of equals the last first.
        """
        if not drawn:
            return self.weights.argsort(dim=0, stable=True).flip(0).expand(count, -1)
        unit = rng.uniform((len(self.members),), dtype=torch.float64) + 2.0**-25
        return (self.weights.log() - (-unit.log()).log()).argsort(dim=1, descending=True, stable=True)


class WorstExpectedError(NamedTuple):
    """The candidate of each sample with the largest error so far; of equals the one that is nearer to more."""

    z: Tensor  # [B, C, H, W]
    error: Tensor  # float64 [B]
    value: Tensor  # [B]
    done: Tensor  # bool [B]

    @classmethod
    def start(cls, x: Tensor, result: MixtureResult) -> "WorstExpectedError":
        """Start from the images themselves."""
        return cls(x.clone(), result.error.clone(), result.value.clone(), result.done.clone())

    def open(self) -> Tensor:
        """Return the positions of the samples from which something can still be gained, int64 [b]."""
        return (~self.done).nonzero().squeeze(1)

    def note(self, index: Tensor, z: Tensor, result: MixtureResult) -> None:
        """Enter candidates of the samples at `index`, in place."""
        level = (result.error - self.error[index]).abs() <= TIE
        better = (result.error > self.error[index] + TIE) | (level & (result.value > self.value[index])) | result.done
        rows = (better & ~self.done[index]).nonzero().squeeze(1)
        where = index[rows]
        self.z.index_copy_(0, where, z.index_select(0, rows))
        for mine, new in ((self.error, result.error), (self.value, result.value), (self.done, result.done)):
            mine[where] = new[rows]


@dataclass
class ExpectedErrorState:
    """Points of some of the samples and the members' answers there; z and result change in place."""

    index: Tensor  # positions among all samples, int64 [b]
    mixture: Mixture
    x: Tensor
    y: Tensor
    threat: Threat
    z: Tensor
    result: MixtureResult
    rng: Rng

    def select(self, at: Tensor) -> "ExpectedErrorState":
        """Select some of the samples; positions int64."""
        return ExpectedErrorState(
            self.index[at], self.mixture, self.x[at], self.y[at], self.threat.select(at), self.z[at],
            self.result.select(at), self.rng.select(at),
        )  # fmt: skip

    def enter(self, where: Tensor, z: Tensor, result: MixtureResult) -> None:
        """Go to other points with the samples at these positions."""
        self.z[where] = z
        self.result.enter(where, result)


def restart_states(
    mixture: Mixture,
    best: WorstExpectedError,
    first: MixtureResult,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    rng: Rng,
    restarts: int,
) -> Iterator[ExpectedErrorState]:
    """Yield a state for each restart, of the samples that are still open: the first from the image, others from random
    points.

    best: where starts are entered; first: the members' answers on the images.
    """
    for restart in range(restarts):
        index = best.open()
        if not len(index):
            return
        below, around, here = rng.select(index).stream(restart), threat.select(index), x[index]
        if restart:
            z = around.random(here, below.stream("start"))
            result = mixture.evaluate(z, y[index], below.stream("started"))
            best.note(index, z, result)
        else:
            z, result = here.clone(), first.select(index)
        yield ExpectedErrorState(index, mixture, here, y[index], around, z, result, below)

"""What the accuracy of a randomized defense means. Not one lucky draw: that falls with every call, for any defense."""

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.metrics.confidence import even
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Forward, Victim

SELECT, REPORT = "judge", "report"
"""Streams of the draws that choose the worst candidate of a sample, and of those that say how bad it is. The least of
many noisy numbers is too low (winner's curse), so the number that is reported comes from draws that chose nothing."""

TIE = 1e-9
"""Sums of probabilities that are nearer to each other are equal."""

ABSTAIN = -1
"""The class of a vote that abstains."""

LEAST = {"expected": 10, "vote": 2, "fixed": 1}


class DrawOutcome(NamedTuple):
    """The outcome of several draws on each sample."""

    pred: Tensor  # int64 [B]: the label; where that loses the class that most draws gave instead; -1: it abstains
    share: Tensor  # of the draws that are wrong, float32 [B]
    wrong: Tensor  # the same; of a vote 1 where it is lost, else 0


@dataclass(frozen=True)
class Protocol(Knobs, key="protocol"):
    """How the predictions of a randomized defense are counted. A deterministic one has one prediction, and no protocol.

    "expected": the share of draws that are right, with draws that the attacker does not know. The primary number. Of a
    mixture, whose members and probabilities are known, it is the exact expectation, and nothing is drawn.
    "vote": the deployed defense is the majority over `draws` draws; a tie counts against it.
    "fixed": each sample has one draw, frozen and known to the attacker: the most that an attacker can have.

    Args:
        rule: expected, vote or fixed.
        draws: per verdict; at least 10 for expected, 2 for vote, 1 for fixed.
        alpha: of a vote: it abstains, which counts as wrong, unless a fair coin would tell its first two classes apart
            so clearly with at most this probability (PREDICT of Cohen et al. 2019, arXiv 1902.02918; the test of Hung
            and Fithian 2019); 1: it never abstains.

    Raises:
        UserError: an unknown rule, or draws out of range.
    """

    rule: str = choice("expected", LEAST)
    draws: int = 100
    alpha: float = knob(1.0, above=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule == "fixed" and self.draws != 1:
            raise UserError(f"protocol.draws={self.draws}: protocol=fixed has one draw of each sample; leave it out")
        if self.draws < LEAST[self.rule]:
            raise UserError(f"protocol.draws={self.draws} is too few; {self.rule} needs at least {LEAST[self.rule]}")
        if self.alpha < 1 and self.rule != "vote":
            raise UserError(f"protocol.alpha={self.alpha} is for protocol.rule=vote; leave it at 1")
        if even(self.draws, 0) > self.alpha:
            raise UserError(f"protocol.draws={self.draws} never suffices for alpha={self.alpha}; take more draws")

    def exact(self, victim: Victim) -> bool:
        """Return whether the expectation is a finite sum over the members of the victim."""
        return self.rule == "expected" and bool(victim.members)

    def to_record(self, exact: bool = False) -> dict[str, Any]:
        """Return the fields, without an alpha of 1, which older records do not have; with 0 draws where it is exact."""
        fields = {name: value for name, value in asdict(self).items() if (name, value) != ("alpha", 1.0)}
        return fields | {"draws": 0} if exact else fields

    def identity(self) -> dict[str, Any]:
        """Return what of the protocol belongs to the deployed defense: a vote over other draws is another one."""
        return self.to_record() if self.rule == "vote" else {"rule": self.rule}

    def applied(self, victim: Victim, seed: int) -> Victim:
        """Return the victim as this protocol deploys it; seed: of the run."""
        return frozen(victim, seed) if self.rule == "fixed" and victim.randomized else victim

    def verdict(self, votes: Tensor, y: Tensor, classes: int) -> DrawOutcome:
        """Return the outcome of several draws. votes: predicted classes int64 [draws, B]; y: labels int64 [B]."""
        counts: Tensor = torch.nn.functional.one_hot(votes, classes).sum(0)
        right = counts.gather(1, y[:, None]).squeeze(1)
        most, rival = counts.scatter(1, y[:, None], -1).max(1)
        share = 1 - right / len(votes)
        lost = most >= right if self.rule == "vote" else share > 0.5
        pred = torch.where(lost, rival, y)
        if self.alpha < 1:
            first, second = counts.topk(2, 1).values.cpu().unbind(1)
            unsure = torch.from_numpy(even(first.numpy(), second.numpy()) > self.alpha).to(y.device)
            lost, pred = lost | unsure, pred.masked_fill(unsure, ABSTAIN)
        return DrawOutcome(pred, share, lost.float() if self.rule == "vote" else share)

    def selective(self, votes: Tensor, accepted: Tensor, y: Tensor, classes: int, clean: bool) -> DrawOutcome:
        """Return the outcome of several draws of a defense that rejects.

        Of a candidate, a draw counts against the defense where it is wrong and accepted, of a clean image where it is
        wrong or rejected. The class is another than the label where most draws count and most accept, so that class
        and majority of the acceptances say together whether the image counts.

        Args:
            votes: predicted classes int64 [draws, B].
            accepted: whether each draw gives its answer, bool [draws, B].
            y: labels int64 [B].
            clean: whether these are clean images.
        """
        wrong = votes != y
        against = wrong | ~accepted if clean else wrong & accepted
        share = against.float().mean(0)
        counts: Tensor = torch.nn.functional.one_hot(votes, classes).sum(0)
        rival = counts.scatter(1, y[:, None], -1).argmax(1)
        answered = accepted.float().mean(0) >= 0.5
        lost = (share > 0.5) & answered | (wrong.float().mean(0) > 0.5) & ~answered
        return DrawOutcome(torch.where(lost, rival, y), share, share)


def expectation(votes: Tensor, weights: Tensor, y: Tensor, classes: int) -> DrawOutcome:
    """Return the exact outcome of a mixture. votes: classes of its members int64 [M, B]; weights: float64 [M]."""
    share = (weights[:, None] * (votes != y)).sum(0)
    given: Tensor = torch.nn.functional.one_hot(votes, classes)
    most = (weights[:, None, None] * given).sum(0).scatter(1, y[:, None], -1.0)
    pred = torch.where(share > 0.5 + TIE, most.argmax(1), y)
    return DrawOutcome(pred, share.float(), share.float())


def frozen(victim: Victim, seed: int) -> Victim:
    """Return the victim with one draw for each sample, the same in every call and for every head."""

    def still(forward: Forward) -> Forward:
        return lambda x, rng: forward(x, Rng(seed, rng.ids, "frozen"))

    heads = tuple(
        replace(head, forward=still(head.forward), draws=1, accepts=head.accepts and still(head.accepts))
        for head in victim.surrogates
    )
    accepts = victim.accepts and still(victim.accepts)
    return replace(victim, predict=still(victim.predict), accepts=accepts, surrogates=heads, randomized=False, draws=1)

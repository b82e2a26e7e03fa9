"""CrossMax: an ensemble in which the winner pays the k-th bid, and the views without maxima that break it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor, nn

from gauntlet.defenses.base import Card, Defense, check_members
from gauntlet.errors import UserError
from gauntlet.knobs import knob
from gauntlet.threat_model.mixture import stacked
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Forward, Head, Victim, plain

Predictors = Callable[[Tensor, Rng], Tensor]
"""(images [B, C, H, W], randomness) -> logits of each predictor [M, B, K]."""


def crossmax(logits: Tensor, k: int | None = None) -> Tensor:
    """Return the scores of the ensemble, <= 0, [B, K]: from each logit the maximum of its predictor is taken, from that
    the maximum of its class, and of what is left the k-th largest over the predictors is the score of the class.

    Fort and Lakshminarayanan 2024, arXiv 2408.05446. A constant added to the logits of a predictor changes nothing.

    Args:
        logits: [M, B, K], of M >= 2 predictors.
        k: in [2, M]; None: the median, which for an even M is the mean of the two in the middle.

    Raises:
        UserError: fewer than two predictors, or k out of range.
    """
    check_bids(len(logits), k)
    order_statistics = columns(logits).sort(0, descending=True).values
    if k is not None:
        return order_statistics[k - 1]
    return (order_statistics[(len(order_statistics) - 1) // 2] + order_statistics[len(order_statistics) // 2]) / 2


def rows(logits: Tensor) -> Tensor:
    """Return what is left of logits [M, B, K] without the maximum of each predictor."""
    return logits - logits.amax(2, keepdim=True)


def columns(logits: Tensor) -> Tensor:
    """Return what is left of `rows` without the maximum of each class over the predictors."""
    left = rows(logits)
    return left - left.amax(0, keepdim=True)


def check_bids(members: int, k: int | None) -> None:
    """Refuse what gives every class the score 0, and a bid that nobody makes. Raises UserError."""
    if members < 2:
        raise UserError(f"an ensemble of {members} has no second bid, its scores are all 0; give two or more members")
    if k is not None and not 2 <= k <= members:
        why = "every best bid is 0" if k == 1 else f"there are {members} members"
        raise UserError(f"defense.k={k} must lie in [2, {members}]: {why}; null is the median")


def means(predictors: Predictors) -> tuple[Head, ...]:
    """Return the heads that an informed attacker needs beside the true one, of whose logits only those of the bid that
    is paid and of the maxima have a gradient: the mean over the predictors of the logits, of what is left after each
    maximum, and of the probabilities.

    The first two differ by a constant of the image, which no loss sees: the second is a further start of the first.
    """

    def of(left: Callable[[Tensor], Tensor]) -> Forward:
        return lambda x, rng: left(predictors(x, rng)).mean(0)

    def probabilities(x: Tensor, rng: Rng) -> Tensor:
        return predictors(x, rng).log_softmax(2).logsumexp(0)

    return (
        Head("mean_logits", of(lambda logits: logits)),
        Head("mean_rows", of(rows)),
        Head("mean_columns", of(columns)),
        Head("mean_softmax", probabilities),
    )


@dataclass(frozen=True)
class CrossMax(Defense):
    """CrossMax over independent networks.

    Args:
        parts: any networks.
        members: names of the parts that vote, two or more; the others are neither loaded nor trained.
        k: the bid that counts, from 2 to the number of members; null: the median.

    Raises:
        UserError: a member that is no part, or is named twice; fewer than two; k out of range; on deployment, members
            of different numbers of classes.
    """

    card: ClassVar[Card] = Card(
        "An ensemble in which a class scores what its k-th best bidder gives, after the maxima are taken away.",
        source="Fort and Lakshminarayanan 2024, arXiv 2408.05446",
        claim="white-box linf attacks; broken by Zhang et al. 2024, arXiv 2411.14834",
    )
    names: ClassVar[tuple[str, ...] | None] = None

    members: list[str] = field(default_factory=lambda: ["standard", "pgd_at", "trades"])
    k: int | None = knob(None, whole=True, least=2, optional=True, hint="every best bid is 0; null is the median")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_members(self.members, self.parts, "a copy bids what its original bids")
        check_bids(len(self.members), self.k)
        # Frozen for others: what an instance has follows from its members.
        object.__setattr__(self, "parts", {name: self.parts[name] for name in self.members})
        object.__setattr__(self, "card", replace(type(self).card, forwards=float(len(self.members))))

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        networks = tuple(models[name] for name in self.members)

        def predictors(x: Tensor, rng: Rng) -> Tensor:
            return stacked({name: models[name](x) for name in self.members})

        def predict(x: Tensor, rng: Rng) -> Tensor:
            return crossmax(predictors(x, rng), self.k)

        alone = (Head(f"member_{name}", plain(models[name])) for name in self.members)
        return Victim(predict, networks, (*means(predictors), *alone))

"""Randomized ensembles: each query is answered by one network, drawn at random."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from gauntlet.defenses.base import Card, Defense, check_members
from gauntlet.errors import UserError
from gauntlet.knobs import knob
from gauntlet.threat_model.mixture import check_classes, stacked
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head, Victim, plain
from gauntlet.training.trained_network import TrainedNetwork


@dataclass(frozen=True)
class RandomizedEnsemble(Defense):
    """Answers by member i with probability a_i (Pinot et al. 2020, arXiv 2002.11565); the attacker knows all but the
    draw.

    The share of right answers is the sum of a_i over the members that are right, without sampling noise. The mean loss
    that plain attacks climb is no guide to it: see `gauntlet.attacks.randomized_ensemble.arc` (Dbouk and Shanbhag
    2022, arXiv 2206.06737).

    Args:
        parts: any networks.
        members: names of the parts that are drawn, two or more; only they, and what they were trained with, are loaded.
        probabilities: of each member, >= 0, of sum one; null: all alike. `gauntlet calibrate ensemble` finds
            the best. A member with 0 is never drawn, and no head.
        draws: members over which a gradient of the true head is averaged, >= 1.

    Raises:
        UserError: a member that is no part, or is named twice; fewer than two; probabilities of another number,
            negative, or of another sum; draws below one; on a prediction, members of different numbers of classes.
    """

    card: ClassVar[Card] = Card(
        "Each query is answered by one of several networks, drawn at random.",
        source="Pinot et al. 2020, arXiv 2002.11565",
        claim="white-box attacks, by the paper; most of the gain over one network is gone under arXiv 2206.06737",
        randomized=True,
    )
    names: ClassVar[tuple[str, ...] | None] = None

    members: list[str] = field(default_factory=lambda: ["pgd_at", "fgsm_rs", "trades"])
    probabilities: list[float] | None = None
    draws: int = knob(10, least=1, hint="a gradient needs a draw")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_members(self.members, self.parts, "give it the sum of the probabilities")
        if len(self.members) < 2:
            raise UserError(f"defense.members has {len(self.members)}: there is nothing to draw; give two or more")
        if self.probabilities is not None:
            check_probabilities(self.probabilities, len(self.members))
        # Frozen for others: what an instance has follows from its members.
        object.__setattr__(self, "parts", needed(self.parts, self.members))

    @property
    def chances(self) -> list[float]:
        """Return the probability of each member."""
        count = len(self.members)
        return [1 / count] * count if self.probabilities is None else list(self.probabilities)

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        drawn = {name: chance for name, chance in zip(self.members, self.chances, strict=True) if chance > 0}
        networks = {name: models[name] for name in drawn}
        chances = torch.tensor(list(drawn.values()), dtype=torch.float64)

        def predict(x: Tensor, rng: Rng) -> Tensor:
            return answered(networks, chances, x, rng)

        def softmax(x: Tensor, rng: Rng) -> Tensor:
            return expected_softmax(stacked({name: network(x) for name, network in networks.items()}), chances)

        members = (Head(f"member_{name}", plain(networks[name]), weight=chance) for name, chance in drawn.items())
        heads = (Head("expected_softmax", softmax), *members)
        return Victim(predict, tuple(networks.values()), heads, randomized=True, draws=self.draws)


def answered(networks: Mapping[str, nn.Module], chances: Tensor, x: Tensor, rng: Rng) -> Tensor:
    """Return the logits [B, K] of a member drawn for each image; each image goes through one network only.

    chances: probability of each network, float64 [M].
    """
    draw = rng.stream("member").uniform((), dtype=torch.float64)
    chosen = torch.bucketize(draw, chances.to(draw.device).cumsum(0)[:-1], right=True)
    places = {name: (chosen == number).nonzero().squeeze(1) for number, name in enumerate(networks)}
    parts = {name: networks[name](x[at]) for name, at in places.items() if len(at)}
    if not parts:
        return torch.as_tensor(next(iter(networks.values()))(x))
    check_classes(parts)
    return torch.cat(list(parts.values()))[torch.cat([places[name] for name in parts]).argsort()]


def expected_softmax(logits: Tensor, chances: Tensor) -> Tensor:
    """Return log sum_i a_i softmax(f_i), [B, K], of logits [M, B, K]: what PGD on a randomized ensemble climbs."""
    weights = chances.log().to(logits)[:, None, None]
    return (weights + logits.log_softmax(2)).logsumexp(0)


def check_probabilities(chances: list[float], members: int) -> None:
    """Refuse what are no probabilities of so many members. Raises UserError."""
    if len(chances) != members:
        raise UserError(f"defense.probabilities has {len(chances)} numbers for {members} members; give one for each")
    if not all(math.isfinite(chance) and chance >= 0 for chance in chances):
        raise UserError(f"defense.probabilities={chances} must not be negative")
    if abs(sum(chances) - 1) > 1e-6:
        raise UserError(f"defense.probabilities={chances} sum to {sum(chances):.6g}; they must sum to 1")


def needed(parts: dict[str, TrainedNetwork], members: list[str]) -> dict[str, TrainedNetwork]:
    """Return the members and all that they were trained with, in the order of the parts."""
    wanted, waiting = set(), list(members)
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        waiting += [other for other in getattr(parts.get(name), "uses", []) if other not in wanted]
    return {name: part for name, part in parts.items() if name in wanted}

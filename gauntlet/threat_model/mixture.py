"""Mixtures, which answer each query by a member that they draw: what an attack on all members at once is given."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.threat_model.attack import traits_of
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.victim import Head

MEMBERS = "members"
"""Name of the head that is all members of a mixture at once; a stage on it is called ATTACK/members."""


@dataclass(frozen=True)
class MixtureHead(CountedHead):
    """All members of a mixture, for an attack on the expectation over them; `head` is the deployed forward.

    Each of `members` has the probability `head.weight`. A pass of one of them is booked as one pass.
    """

    together: tuple[CountedHead, ...] = ()

    @property
    def members(self) -> tuple[CountedHead, ...]:
        return self.together


def on_members(attack: object) -> bool:
    """Return whether an attack is given all members of a mixture at once. On another defense it runs on each head."""
    return traits_of(attack).mixture


def mixed(counted: CountedHead, members: tuple[Head, ...], fused_heads: dict[str, Head]) -> MixtureHead:
    """Return the members behind an access handle to their mixture.

    Args:
        fused_heads: name -> the same head over BN-fused copies of the networks.
    """
    cheap = {name: fused.forward for name, fused in fused_heads.items()}
    together = tuple(replace(counted, head=head, fast=cheap.get(head.name)) for head in members)
    return MixtureHead(
        counted.head, counted.predict, counted.counts, dtype=counted.dtype,
        batch_size=counted.batch_size, trials=counted.trials,
        member_predictors=counted.member_predictors, passes=counted.passes, together=together,
    )  # fmt: skip


def probabilities(members: tuple[Head, ...]) -> Tensor:
    """Return the probability of each member, float64 [M], of sum one."""
    weights = torch.tensor([head.weight for head in members], dtype=torch.float64)
    return weights / weights.sum()


def stacked(scores: Mapping[str, Tensor]) -> Tensor:
    """Return scores of each member as one tensor [M, B, K]. Raises UserError where they tell other classes apart."""
    check_classes(scores)
    return torch.stack(list(scores.values()))


def check_classes(scores: Mapping[str, Tensor]) -> None:
    """Refuse members, name -> scores [B, K], of different numbers K of classes. Raises UserError."""
    if len({tuple(each.shape[1:]) for each in scores.values()}) > 1:
        given = ", ".join(f"{name} {each.shape[-1]}" for name, each in scores.items())
        raise UserError(f"the members tell different numbers of classes apart: {given}; take networks of one data set")


def bits(wrong: Tensor) -> Tensor:
    """Return which members are wrong, as one number for each sample: bit i is member i. wrong: bool [M, B]."""
    places = torch.arange(len(wrong), device=wrong.device)
    return (wrong.long() << places[:, None]).sum(0)

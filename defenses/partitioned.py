"""Networks that were trained on parts of the training set vote, against poisoning of that set."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from gauntlet.certification.partition_votes import RULES, PartitionVotes
from gauntlet.defenses.base import Card, Defense
from gauntlet.errors import UserError
from gauntlet.knobs import choice
from gauntlet.models.voting_networks import VotingNetworks
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head, Victim, plain
from gauntlet.training.partitioned_networks import PartitionedNetworks


@dataclass(frozen=True)
class Partitioned(Defense):
    """Each network knows a part of the training set that a hash of every image decides, and they vote.

    Deep Partition Aggregation (Levine and Feizi 2021, arXiv 2006.14768): disjoint parts. With more than one copy Finite
    Aggregation (Wang, Levine and Feizi 2022, arXiv 2202.02628): as large parts that overlap. With rule "runoff" Run-Off
    Election (Rezaei et al. 2023, arXiv 2302.02300): the networks choose between the two classes with most votes.

    Votes are steps without a slope, which runs flag: the gradient of the true head is that of the mean probability,
    which is added to the votes, too small to decide. The surrogates are the mean of the logarithms of the
    probabilities, and that of the logits.

    Args:
        parts: "model", a `gauntlet.training.partitioned_networks.PartitionedNetworks`.
        rule: votes or runoff.

    Raises:
        UserError: the part is another one.
    """

    card: ClassVar[Card] = Card(
        "The class that most of many networks give, each trained on its own part of the training set.",
        source="Levine and Feizi 2021, arXiv 2006.14768; Wang et al. 2022, arXiv 2202.02628; Rezaei et al. 2023, "
        "arXiv 2302.02300",
        claim="a certified number of changes of the training set for each image",
        forwards=50.0,
        certificate="certifier=poisoning, changes of the training set",
    )

    rule: str = choice("votes", RULES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(part := self.parts["model"], PartitionedNetworks):
            raise UserError("defense.parts.model must be partitioned networks; start from defense=partitioned")
        object.__setattr__(self, "card", replace(type(self).card, forwards=float(part.buckets.count)))

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        networks, part = models["model"], self.parts["model"]
        assert isinstance(networks, VotingNetworks)
        assert isinstance(part, PartitionedNetworks)
        votes = PartitionVotes(networks, part.buckets, self.rule)

        def logits(x: Tensor, rng: Rng) -> Tensor:
            return networks.each(x).mean(0)

        heads = (Head("mean", plain(networks)), Head("logits", logits))
        return Victim(lambda x, rng: votes.scores(x), (networks,), heads, mechanism=votes)

"""The class that networks of disjoint or spread training data agree on: what is deployed, and what certifiers read."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.poisoning_bounds import Ballot, Ints, majority_certificate, runoff_certificate
from gauntlet.data.partitions import Buckets
from gauntlet.errors import UserError
from gauntlet.models.voting_networks import VotingNetworks
from gauntlet.threat_model.decision import check_finite

RULES = ("votes", "runoff")


@dataclass(frozen=True)
class PartitionVotes:
    """Networks whose training data depend on few buckets each, and how their votes are counted.

    Args:
        networks: in eval mode.
        buckets: which of them a bucket trains.
        rule: "votes", the class that most networks give; "runoff", of the two with most votes the one that more
            networks prefer. Equal votes go to the class with the smaller number.
    """

    networks: VotingNetworks
    buckets: Buckets
    rule: str

    def ballot(self, x: Tensor) -> Ballot:
        """Return what the networks say of images x [B, C, H, W]. Raises UserError where scores are not finite."""
        return self._ballot(self.networks.each(x))

    def _ballot(self, logits: Tensor) -> Ballot:
        check_finite(logits.flatten(0, 1), "images")
        return Ballot(logits.detach().double().cpu().numpy(), self.buckets.reached)

    def certified(self, ballot: Ballot) -> tuple[Ints, Ints]:
        """Return the prediction for each image, and how many changes of the training set it survives, int64 [B]."""
        return (runoff_certificate if self.rule == "runoff" else majority_certificate)(ballot)

    def scores(self, x: Tensor) -> Tensor:
        """Return scores [B, K] whose largest is the prediction.

        Shares of the votes, equal ones kept apart in favor of the smaller class; the finalists of a run-off stand above
        all others, and the winner leads by its share of the preferences. These are steps; to have a slope, they get the
        mean probabilities added, too small to change which score is the largest.
        """
        logits = self.networks.each(x)
        ballot = self._ballot(logits)
        apart = 1 / (2 * ballot.classes * ballot.networks)
        found = torch.from_numpy(ballot.votes).double() / ballot.networks - apart * torch.arange(ballot.classes)
        if self.rule == "runoff":
            winner, rival = ballot.elected()
            for stand, finalist, other in ((2.0, winner, rival), (1.0, rival, winner)):
                shares = torch.from_numpy(ballot.prefers(finalist, other).mean(1))
                found[torch.arange(len(found)), torch.from_numpy(finalist)] = stand + shares
        scores: Tensor = found.to(x.device) + apart / 4 * logits.double().softmax(2).mean(0)
        return scores.to(logits.dtype)


def partition_votes(mechanism: object) -> PartitionVotes:
    """Return the mechanism. Raises UserError where the defense has no partitions."""
    if not isinstance(mechanism, PartitionVotes):
        raise UserError(
            "certifier=poisoning needs networks that were trained on partitions of the training set: "
            "defense=partitioned"
        )
    return mechanism

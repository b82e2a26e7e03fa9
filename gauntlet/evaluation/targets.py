"""The targets of a targeted attack: which class each image is to become."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.attacks.linearized_boundary import nearest_classes
from gauntlet.errors import UserError, reason
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.targeted import choose_targets

STREAM = "target"
"""Of the draws that choose targets."""

CANDIDATES = 100
"""Classes of largest score among which the nearest is sought."""


BLIND = ("random", "column")
"""Rules that ask the defense nothing, so that an attacker who crafts elsewhere knows the targets."""


@dataclass(frozen=True)
class BlindTargets:
    """The targets of a run, for those who may not ask its defense.

    Args:
        seed, classes: of the run.
        listed: what the data set says, int64 [n] by the id; None: they are random.
    """

    seed: int
    classes: int
    listed: Tensor | None = None

    def of(self, ids: Tensor, y: Tensor) -> Tensor:
        """Return the target of each image, int64 [B], where y is. Raises UserError as `targets_of` does."""
        if self.listed is not None:
            return listed_targets(self.listed, ids, y, self.classes)
        return choose_targets("random", torch.empty(len(ids), self.classes), y, Rng(self.seed, ids, STREAM))


def listed_targets(listed: Tensor, ids: Tensor, y: Tensor, classes: int) -> Tensor:
    """Return the targets that the data set says, int64 [B]. Raises UserError where one is no other class."""
    target = listed[ids.to(listed.device)].to(y)
    if len(bad := ids[(target == y) | (target < 0) | (target >= classes)]):
        raise UserError(
            f"the target of sample {int(bad[0])} is its label, or none of {classes} classes; fix the column, "
            "or leave the sample out by dataset.indices"
        )
    return target


def targets_of(run: Evaluation, scores: Tensor, x: Tensor, ids: Tensor, y: Tensor) -> Tensor:
    """Return the target of each image by the rule of the threat, int64 [B], where y is. What that costs is booked
    nowhere: the passes of an attack begin later.

    Args:
        scores: of the clean images, [B, K].
        x: images [B, C, H, W].
        ids: of the samples, int64 [B], strictly increasing.
        y: labels int64 [B].

    Raises:
        UserError: a target of the data set is no other class; or the nearest class is asked for, and the defense has no
            gradient.
    """
    if run.listed is not None:
        return listed_targets(run.listed, ids, y, run.classes)
    if run.threat.target != "nearest":
        return choose_targets(run.threat.target, scores, y, Rng(run.seed, ids, STREAM))
    found, device = [], run.device
    for at in torch.arange(len(ids)).split(run.batch_size):  # type: ignore[no-untyped-call]
        images, labels, draws = x[at].to(device), y[at].to(device), Rng(run.seed, ids[at].to(device), STREAM)
        head = CountedHead(run.victim.heads[0], run.victim.predict, Counts.of(draws.ids))
        try:
            order, _ = nearest_classes(head, images, labels, CANDIDATES, run.threat.norm, draws)
        except RuntimeError as cause:
            raise UserError(
                f"threat.target=nearest needs gradients of the defense ({reason(cause)}); use threat.target=runner_up"
            ) from cause
        found.append(order[:, 0].to(y.device))
    return torch.cat([*found, y[:0]])

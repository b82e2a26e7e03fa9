"""Targeted attacks: which class each image is to become, and the head that turns every attack into a targeted one.

An attack is written for one aim, away from the label. A targeted head keeps its words and changes what they mean, so
that losses, searches and checks of success need not know of targets. With z the logits, t the target of an image, y its
label and M the largest logit of the other classes:

- The gradient of a loss is that of the same loss of t, with the opposite sign: the loss is handed logits in which y and
  t have changed places, and what it answers is put back and negated. Cross-entropy becomes minus that of the target,
  the margin becomes z_t - M, and so on, exactly.
- The logits that are handed out have M in the place of y, and z_t as the largest of the others. Their margin is
  M - z_t, which falls below zero where the target is predicted, and there alone they are misclassified.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.threat_model.attack import traits_of
from gauntlet.threat_model.counted_head import CountedHead, View
from gauntlet.threat_model.passes import Pullback, RowLoss
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Forward, Victim


def choose_targets(rule: str, scores: Tensor, y: Tensor, rng: Rng) -> Tensor:
    """Return the target of each image, another class than its label, int64 [B].

    Args:
        rule: random, least_likely or runner_up.
        scores: of the clean images, [B, K] with K >= 2; of equals the first class is taken.
        y: labels int64 [B].
        rng: of these images.
    """
    if rule == "random":
        return (
            y + 1 + rng.stream("target").integers((1,), scores.shape[1] - 1).squeeze(1).to(y.device)
        ) % scores.shape[1]
    if rule == "least_likely":
        return scores.scatter(1, y[:, None], torch.inf).argmin(1)
    return scores.scatter(1, y[:, None], -torch.inf).argmax(1)


def hits(scores: Tensor, target: Tensor) -> Tensor:
    """Return where the target has the largest score, bool [B]: a tie goes against the defense.

    Args:
        scores: [B, K].
        target: int64 [B].
    """
    others = scores.scatter(1, target[:, None], -torch.inf).amax(1)
    return scores.gather(1, target[:, None]).squeeze(1) >= others


def target_margins(scores: Tensor, target: Tensor) -> Tensor:
    """Return the best other score minus that of the target, [B]: not above zero where the target is predicted."""
    others = scores.scatter(1, target[:, None], -torch.inf).amax(1)
    return others - scores.gather(1, target[:, None]).squeeze(1)


def exchanged(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return logits or cotangents [B, K] in which the columns of label and target have changed places."""
    own, other = logits.gather(1, y[:, None]), logits.gather(1, target[:, None])
    return logits.scatter(1, y[:, None], other).scatter(1, target[:, None], own)


def turned(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return logits [B, K] that are misclassified exactly where the target is predicted; see the head of this file.

    The best other class, or the target's own column where that is the label, holds z_t; the rest keep their order,
    lower by the spread of the logits, so that losses with a sum over classes tell little but that margin.
    """
    swapped = exchanged(logits, y, target)  # now y is the column of the target's logit
    others = swapped.scatter(1, y[:, None], -torch.inf)
    most, best = others.max(1, keepdim=True)
    goal, spread = swapped.gather(1, y[:, None]), logits.amax(1, keepdim=True) - logits.amin(1, keepdim=True)
    rest = (goal - (most - swapped) - spread).minimum(goal)
    return rest.scatter(1, best, goal).scatter(1, y[:, None], most)


@dataclass(frozen=True)
class TurnedForward:
    """A forward whose scores are those of `turned`; ids, labels and targets are those of all samples, ids rising."""

    forward: Forward
    ids: Tensor
    labels: Tensor
    targets: Tensor

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        at = torch.searchsorted(self.ids, rng.ids)
        return turned(self.forward(x, rng), self.labels[at], self.targets[at])


@dataclass(frozen=True)
class Toward:
    """The cotangent of a loss of the target, which has the opposite sign; see the head of this file."""

    loss: Callable[..., Tensor]

    def __call__(self, logits: Tensor, y: Tensor, target: Tensor, *columns: Tensor | None) -> Tensor:
        return -exchanged(self.loss(exchanged(logits, y, target), *columns), y, target)


@dataclass(frozen=True)
class TargetedHead(CountedHead):
    """A head of which every attack asks for the target of each sample; labels, targets: int64 [n] of `counts.ids`."""

    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    targets: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def scores(self, z: Tensor, rng: Rng) -> Tensor:
        return self._shown(super().scores(z, rng), *self._of(rng))

    def pulled(
        self, z: Tensor, cotangent: Pullback, rng: Rng, view: View | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, target = self._of(rng)
        if isinstance(cotangent, RowLoss):
            toward: Pullback = RowLoss(Toward(cotangent.loss), y, target, *cotangent.columns)
        else:
            toward = partial(Toward(cotangent), y=y, target=target)
        logits, gradient, sums = super().pulled(z, toward, rng, view)
        return self._shown(logits, y, target), gradient, sums

    def linearize(self, z: Tensor, rng: Rng, view: View | None = None) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        y, target = self._of(rng)
        logits, pull = super().linearize(z, rng, view)
        return self._shown(logits, y, target), lambda cotangent: pull(-exchanged(cotangent, y, target))

    def _shown(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """Return the logits that are handed out."""
        return turned(logits, y, target)

    def _of(self, rng: Rng) -> tuple[Tensor, Tensor]:
        at = torch.searchsorted(self.counts.ids, rng.ids)
        return self.labels[at], self.targets[at]


@dataclass(frozen=True)
class ExchangedHead(TargetedHead):
    """A head that hands out its logits with label and target in exchanged places, and nothing else changed.

    Such logits of several networks can be averaged, and losses computed on them are those of the target: a loss of the
    "label" is made smaller by what `gradient` and `linearize` pull back. They say nothing of success.
    """

    def _shown(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        return exchanged(logits, y, target)


def targeting(head: CountedHead, y: Tensor, target: Tensor) -> TargetedHead:
    """Return a head on which attacks are targeted; y, target: int64 [B] of the samples of `head.counts`."""
    deployed = TurnedForward(head.predict, head.counts.ids, y, target)
    return TargetedHead(
        head.head, deployed, head.counts, head.fast, head.dtype, head.batch_size, passes=head.passes,
        labels=y, targets=target,
    )  # fmt: skip


def check_targeted(name: str, attack: object, victim: Victim) -> None:
    """Refuse what has no targeted form. Raises UserError.

    Args:
        name: of the stage.
        attack: that is no suite.
    """
    if victim.randomized or victim.accepts is not None:
        raise UserError(
            "threat.goal=targeted is judged on deterministic defenses that always answer; use threat.goal=untargeted"
        )
    traits = traits_of(attack)
    if not traits.targetable or traits.mixture or traits.needs == "training-set":
        raise UserError(
            f"{name} has no targeted form; use attack=pgd, apgd, pma, md, gauntlet, square or fmn with "
            "threat.goal=targeted"
        )
    if getattr(attack, "targets", 0):
        raise UserError(
            f"{name} moves to classes that it chooses itself (targets={getattr(attack, 'targets', 0)}); set its "
            "targets to 0 with threat.goal=targeted"
        )

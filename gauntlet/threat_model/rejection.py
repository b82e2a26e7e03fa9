"""Defenses that may reject an image: "fooled and accepted" written as logits, so that every attack aims at both.

An attack on a rejecting defense succeeds where the prediction is wrong and accepted. Its heads say so themselves: to
the attacker, a rejected image is one that is still right. Once the class is wrong, the score of the label y is raised
to the one that rejection has (Carlini and Wagner 2017, arXiv 1705.07263, give rejection a logit of its own). So losses,
black-box attacks and checks of success need not know of detectors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.threat_model.access import GRADIENT, TRANSFER
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Acceptance, Forward

Fold = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits [B, K], acceptance [B], labels [B]) -> logits [B, K]."""


def selective(logits: Tensor, acceptance: Tensor, y: Tensor) -> Tensor:
    """Return logits [B, K] whose largest is another than y exactly where the given ones are wrong and accepted.

    With u the spread of the logits and s = a / (1 + |a|) of the acceptance a, y scores Z_y + u while it is right, and
    max(Z_y, max_j Z_j - u s) once it is not. The margin, at least u, then in (0, u), then negative, is the selective
    margin: it falls on the whole way to "wrong", then to "accepted", though a detector may reject all in between. While
    the class is right the detector has no say: it would pull the image back to where it is surely right.

    Args:
        logits: [B, K].
        acceptance: [B], 0 or more where the image is accepted.
        y: labels int64 [B].
    """
    top, own, a = logits.amax(1), _own(logits, y), acceptance.to(logits.dtype)
    right = own > logits.scatter(1, y[:, None], -torch.inf).amax(1)
    rejection = top - _spread(logits) * a / (1 + a.abs())
    above = torch.nextafter(top.detach(), torch.full_like(top, torch.inf))
    rejection = torch.where((a < 0) & (rejection <= top), above, rejection)  # a hair below 0, lost in rounding
    return _with_own(logits, y, torch.where(right, own + _spread(logits), torch.maximum(own, rejection)))


def summed(logits: Tensor, acceptance: Tensor, y: Tensor) -> Tensor:
    """Return logits [B, K] in which y falls by the acceptance, up to one spread of the logits: a sum of both aims.

    Its gradient pulls at prediction and detector in every step, where that of `selective` pulls at one of them.
    """
    gain = _spread(logits) * acceptance.to(logits.dtype).clamp_max(1)
    return _with_own(logits, y, _own(logits, y) - gain)


def answered(logits: Tensor, acceptance: Tensor, y: Tensor) -> Tensor:
    """Return what one query tells: the scores where the image is accepted, else y above all, by more than any margin.

    Who learns scores or decisions alone learns of a rejection that it happened, and not how near it was.
    """
    above = 2 * logits.amax(1) - logits.amin(1) + 1
    return _with_own(logits, y, torch.where(acceptance < 0, above, _own(logits, y)))


@dataclass(frozen=True)
class Folded:
    """A forward whose logits tell "fooled and accepted" by themselves.

    Args:
        forward: to class scores.
        accepts: whether they are given away.
        ids, y: all samples that may be asked about, ids strictly increasing, with their labels.
        fold: `selective`, `summed` or `answered`.
    """

    forward: Forward
    accepts: Acceptance
    ids: Tensor
    y: Tensor
    fold: Fold

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        y = self.y[torch.searchsorted(self.ids, rng.ids)]
        return self.fold(self.forward(x, rng), self.accepts(x, rng), y)


def rejecting(head: CountedHead, accepts: Acceptance, y: Tensor | None, level: str) -> CountedHead:
    """Return the head as an attack on a rejecting defense sees it.

    Args:
        head: over class scores.
        accepts: the deployed acceptance.
        y: labels int64 [B] of the samples of `head.counts`.
        level: of access that the attack needs.

    Raises:
        UserError: there are no labels: the attack is not one on single images.
    """
    if y is None:
        raise UserError("a defense that rejects cannot be attacked by one perturbation for all images; use attack=pma")
    if head.head.aim == "ignored":  # an attacker who does not know of the detector takes a wrong class for a success
        return replace(head, head=replace(head.head, exact=True))
    ids = head.counts.ids

    def folded(forward: Forward, by: Acceptance, fold: Fold) -> Forward:
        return Folded(forward, by, ids, y, fold)

    if level not in (GRADIENT, TRANSFER):
        asked = folded(head.predict, accepts, answered)
        return replace(head, head=replace(head.head, forward=asked), predict=asked, fast=None)
    view = folded(head.head.forward, head.head.accepts or accepts, summed if head.head.aim == "sum" else selective)
    return replace(
        head, head=replace(head.head, forward=view), predict=folded(head.predict, accepts, selective), fast=None
    )


def _spread(logits: Tensor) -> Tensor:
    """Return the standard deviation of the logits of each image, without a gradient, [B]."""
    return logits.detach().std(1).clamp_min(torch.finfo(logits.dtype).tiny)


def _own(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y[:, None]).squeeze(1)


def _with_own(logits: Tensor, y: Tensor, score: Tensor) -> Tensor:
    """Return the logits with other scores [B] for y."""
    return logits.scatter(1, y[:, None], score[:, None].to(logits.dtype))

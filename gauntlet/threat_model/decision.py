"""What class scores say where they do not say it plainly: ties, and numbers that are none."""

import torch
from torch import Tensor

from gauntlet.errors import UserError


def decided(scores: Tensor, y: Tensor) -> Tensor:
    """Return the predicted classes, int64 [..., B]; where no score exceeds all others, not the label: a tie goes
    against the defense, and so does a label whose score is NaN.

    Args:
        scores: [..., B, K] with K >= 2.
        y: labels int64 [B].
    """
    label = y.expand(scores.shape[:-1])[..., None]
    own = scores.gather(-1, label).squeeze(-1)
    other, rival = scores.scatter(-1, label, -torch.inf).max(-1)
    # Where nothing else has a score above -inf the index of the largest may be the label itself.
    rival = torch.where(rival == label.squeeze(-1), (rival + 1) % scores.shape[-1], rival)
    return torch.where(own > other, label.squeeze(-1), rival)


def misclassified(scores: Tensor, y: Tensor) -> Tensor:
    """Return whether `decided` is not the label, bool [..., B], by fewer operations: no score of the label, or none
    that exceeds all others. scores: [..., B, K] with K >= 2; y: labels int64 [B].
    """
    label = (y if scores.dim() == 2 else y.expand(scores.shape[:-1]))[..., None]
    other = scores.scatter(-1, label, -torch.inf).amax(-1, keepdim=True)
    return (scores.gather(-1, label) > other).logical_not_().squeeze(-1)


def relative_difference(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the largest difference of two scores of each image in parts of the spread of the wanted ones, beyond what
    rounds away, float64 [B].

    The spread, not the size: a common offset of the scores decides nothing, and would hide any difference. NaN where a
    score is; infinite where the wanted scores have no spread and the found ones differ.

    Args:
        found, wanted: [B, K].
    """
    rounding = 8 * torch.finfo(wanted.dtype).eps * wanted.double().abs().amax(1)
    found, wanted = found.double(), wanted.double()
    apart = ((found - wanted).abs().amax(1) - rounding).clamp_min(0)
    return apart / (wanted.amax(1) - wanted.amin(1)).clamp_min(torch.finfo(torch.float64).tiny)


def votes(scores: Tensor, what: str = "noisy copies") -> Tensor:
    """Return the class that each copy votes for, int64 [B]; K, for no class, where two share the largest score.

    Args:
        scores: [B, K].
        what: the copies are, for the message.

    Raises:
        UserError: a score is not finite.
    """
    check_finite(scores, what)
    if scores.shape[1] < 2:
        return scores.argmax(1)
    first, second = scores.topk(2, 1).values.unbind(1)
    return torch.where(first > second, scores.argmax(1), scores.shape[1])


def check_finite(scores: Tensor, what: str = "noisy copies") -> None:
    """Refuse scores [B, K] that are NaN or infinite. Raises UserError."""
    bad = ~scores.isfinite().all(1)
    if bad.any():
        raise UserError(
            f"the network returns scores that are not finite for {int(bad.sum())} of {len(bad)} {what}, which vote for "
            "nothing; check its weights, and what it does with values outside [0, 1]"
        )

"""Attack losses, each given by the direction in which the attacker wants to push the logits.

A loss is a function `(logits [B, K], y [B], target [B] or None) -> cotangent [B, K]`: the gradient of the loss with
respect to the logits, up to a positive factor per sample, scaled to sum of absolute values one. Pulled back through the
network once, it is the gradient of the input. Steps that do not depend on the length of the gradient (sign, normalized)
lose nothing, and three failures disappear: softmax underflow at confident samples, the mean over a batch, and the range
of half precision. All exponents are <= 0. The loss is to be maximized.

Notation: m is the best other class, r_j = exp(z_j - z_m) for the other classes, S = sum of r_j, q = exp(z_m - z_y).
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.threat_model.passes import resolved


class Cotangent(Protocol):
    """A loss: see the head of this file."""

    def __call__(self, logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor: ...


def ce(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of the true class; with a target, minus the cross-entropy of the target.

    -log p_y grows with logsumexp_{j != y} z_j - z_y, whose gradient has no factor that vanishes.
    """
    z = resolved(logits)
    if target is None:
        label = y[:, None]
        return _unit(_others(z, label).scatter_(1, label, -1.0))
    return _unit(_one_hot(target, z) - _others(z, target[:, None]))


def margin(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return z_m - z_y, or z_t - z_y (Carlini and Wagner 2017, arXiv 1608.04644)."""
    z = resolved(logits)
    rival = runner_up(z, y) if target is None else target
    return _unit(_one_hot(rival, z) - _one_hot(y, z))


def dlr(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Difference of logits ratio (Croce and Hein 2020, arXiv 2003.01690), and its targeted form.

    (z_m - z_y) / (z_(1) - z_(3)), or (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2), with z_(i) the i-th largest logit.
    Where that is constant (y ranked third) or has no denominator, the direction is that of the margin.
    """
    z = resolved(logits)
    needed = fewest_classes("dlr", target is not None)
    if z.shape[1] < needed:
        raise UserError(f"loss dlr needs at least {needed} classes, the model has {z.shape[1]}; use loss=margin")
    rival = runner_up(z, y) if target is None else target
    order = z.argsort(dim=1, descending=True, stable=True)
    below = _one_hot(order[:, 2], z)
    if target is not None:
        below = (below + _one_hot(order[:, 3], z)) / 2
    up, scale = _one_hot(rival, z) - _one_hot(y, z), _one_hot(order[:, 0], z) - below
    numerator, denominator = (up * z).sum(1, keepdim=True), (scale * z).sum(1, keepdim=True)
    quotient = denominator * up - numerator * scale
    return _unit(quotient / denominator.clamp_min(1e-12), up / 2)


def pm(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the probability margin p_m - p_y (PMA, arXiv 2411.15210), or p_t - p_y.

    The cotangent is (2 + (S - 1) q) e_m + (1 - q) sum_j r_j e_j - (1 + S) e_y: the logit margin at the boundary, q = 1,
    mixed with the direction of cross-entropy far from it. Divided by q where q > 1. Far on the wrong side, where p_m is
    one to the last digit, the direction is that of the margin.
    """
    z, rival, r, rest, up, down = _pieces(logits, y, target)
    cotangent = r * (down - up)
    cotangent.scatter_(1, rival[:, None], 2 * down + rest * up)
    return _unit(cotangent.scatter_(1, y[:, None], -(2 + rest) * down), margin(z, y, rival))


def rival_probability(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return p_m: (1 + (S - 1) q) e_m - e_y - q sum_{j != m, y} r_j e_j; far on the wrong side as in `pm`."""
    z, rival, r, rest, up, down = _pieces(logits, y, target)
    cotangent = -up * r
    cotangent.scatter_(1, rival[:, None], down + rest * up)
    return _unit(cotangent.scatter_(1, y[:, None], -down), margin(z, y, rival))


def true_probability(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return +p_y: the step away from the boundary with which margin-decomposition attacks begin. Opposite to ce."""
    return -ce(logits, y)


def true_logit(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return -z_y."""
    return -_one_hot(y, resolved(logits))


def rival_logit(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return z_m, or z_t."""
    z = resolved(logits)
    return _one_hot(runner_up(z, y) if target is None else target, z)


RESOLUTION = 16.0
"""Gap of the two largest logits beyond which a float32 softmax no longer holds the second: exp(-16) is one rounding."""


def temperature_scaled(loss: Cotangent) -> Cotangent:
    """Return the loss at a temperature that keeps it soft: where the two largest logits lie further apart than
    `RESOLUTION`, all logits are measured in units of that gap, which is the scaling of MIFPE.

    A closed form does not underflow, but at such gaps every softmax loss has become the plain logit margin, and an
    attack that lives on the difference between its losses, as PMA does, loses it. No other sample is touched.
    """

    def soft(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
        z = resolved(logits)
        top = z.topk(2, dim=1).values
        gap = top[:, :1] - top[:, 1:]
        wide = gap > RESOLUTION
        return loss(torch.where(wide, z / gap.clamp_min(1.0), z), y, target)

    return soft


def mifpe(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of the logits in units of the gap of their two largest (MIFPE; Yu and Xu, CVPR 2023).

    The gap is a constant of the sample, at least 1e-8. Near the boundary, where it is small, the direction is that of
    the margin; where it is wide every class has its share, as at a high temperature.
    """
    z = resolved(logits)
    top = z.topk(2, dim=1).values
    return ce(z / (top[:, :1] - top[:, 1:]).clamp_min(1e-8), y, target)


def along(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the sum of w_j z_j with weights w [B, K], which stand in the place of the target: a move towards other
    outputs (output diversification; Tashiro et al. 2020, arXiv 2003.06878).
    """
    assert target is not None
    return _unit(resolved(target))


def fewest_classes(name: str, targeted: bool) -> int:
    """Return how many classes a model must have for the loss of that name."""
    return 2 if name != "dlr" else 4 if targeted else 3


LOSSES: dict[str, Cotangent] = {"ce": ce, "margin": margin, "dlr": dlr, "pm": pm, "mifpe": mifpe}
"""The losses that an attack can be given by name."""


def named(name: str) -> Cotangent:
    """Return the loss of that name. Raises UserError."""
    if name not in LOSSES:
        raise UserError(f"loss={name!r} is unknown; choose one of {', '.join(LOSSES)}")
    return LOSSES[name]


class Loss(NamedTuple):
    """A loss whose value is needed too; the value grows with the loss and never saturates."""

    cotangent: Cotangent
    value: Cotangent  # (logits, y, target) -> [B]


SCORED = ("ce", "margin", "dlr", "mifpe")
"""Losses that have a value."""


def scored(name: str) -> Loss:
    """Return the loss of that name with its value. Raises UserError."""
    # The value of mifpe as it is written falls on the way to the boundary, where its unit shrinks; the margin does not.
    values: dict[str, Cotangent] = {
        "ce": _ce_value, "margin": _margin_value, "dlr": _dlr_value, "mifpe": _margin_value,
    }  # fmt: skip
    if name not in values:
        raise UserError(f"loss={name!r} is unknown here; choose one of {', '.join(values)}")
    return Loss(LOSSES[name], values[name])


def _ce_value(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return logsumexp_{j != y} z_j - z_y, of which -log p_y is a rising function; with a target, minus that of the
    target."""
    z, at = resolved(logits), (y if target is None else target)[:, None]
    others, own = z.scatter(1, at, -torch.inf).logsumexp(1), z.gather(1, at).squeeze(1)
    return others - own if target is None else own - others


def _margin_value(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    z = resolved(logits)
    rival = runner_up(z, y) if target is None else target
    return (z.gather(1, rival[:, None]) - z.gather(1, y[:, None])).squeeze(1)


def _dlr_value(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    ordered = resolved(logits).sort(dim=1, descending=True).values
    low = ordered[:, 2] if target is None else (ordered[:, 2] + ordered[:, 3]) / 2
    return _margin_value(logits, y, target) / (ordered[:, 0] - low).clamp_min(1e-12)


def runner_up(logits: Tensor, y: Tensor) -> Tensor:
    """Return the best class other than y, int64 [B]."""
    return logits.scatter(1, y[:, None], -torch.inf).argmax(1)


def ranking(logits: Tensor, y: Tensor) -> Tensor:
    """Return the classes other than y from the best to the worst, int64 [B, K - 1]."""
    return logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :-1]


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """Return z_y minus the best other logit, [B]: positive where the prediction is right."""
    label = y[:, None]
    return logits.gather(1, label).squeeze(1) - logits.scatter(1, label, -torch.inf).amax(1)


CLEAR = 1e-5
"""Margin, as a share of the size of the logits, by which a candidate must fool an exact head: the rounding of a fused
copy or of another batch composition, such as the verifier's, must not undo what lies on the decision boundary."""


def margin_hidden_by_rounding(logits: Tensor) -> Tensor:
    """Return the margin beyond which logits [B, K] that a common offset leaves few digits are sure not to tie, [B]: one
    or two of their last digits; zero where these are less than `CLEAR` of the spread, as they are without an offset.
    """
    size, spread = logits.abs().amax(1), logits.amax(1) - logits.amin(1)
    rounding = torch.finfo(logits.dtype).eps * size
    return rounding.masked_fill(2 * rounding <= CLEAR * spread, 0.0)


def _pieces(logits: Tensor, y: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return z, m, r (zero at y and m), S - 1, min(q, 1) and min(1 / q, 1); the last three as [B, 1]."""
    z = resolved(logits)
    rival = runner_up(z, y) if target is None else target
    best = z.gather(1, rival[:, None])
    # A chosen target may lie below another class; then r_j > 1 there, bounded to keep the exponent in range.
    r = (z - best).clamp_max(80.0).exp().scatter(1, y[:, None], 0.0).scatter(1, rival[:, None], 0.0)
    gap = best - z.gather(1, y[:, None])
    return z, rival, r, r.sum(1, keepdim=True), gap.clamp_max(0).exp(), (-gap).clamp_max(0).exp()


def _others(z: Tensor, label: Tensor) -> Tensor:
    return z.scatter(1, label, -torch.inf).softmax(1)


def _one_hot(index: Tensor, z: Tensor) -> Tensor:
    return torch.zeros_like(z).scatter_(1, index[:, None], 1.0)


def _unit(cotangent: Tensor, otherwise: Tensor | None = None) -> Tensor:
    """Scaled to sum of absolute values one; a row below 1e-30 is replaced by that of `otherwise`."""
    size = cotangent.abs().sum(1, keepdim=True)
    if otherwise is None:
        return cotangent / size
    return torch.where(size > 1e-30, cotangent / size.clamp_min(1e-30), otherwise)

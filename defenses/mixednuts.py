"""MixedNUTS: a mixture whose robust network is made sure where it is right and unsure where it is wrong, by a map."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor, nn

from gauntlet.defenses.base import Card, Defense
from gauntlet.defenses.calibration_data import CalibrationData
from gauntlet.defenses.mixing import mixed
from gauntlet.errors import UserError
from gauntlet.knobs import knob
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head, Victim, plain

TOP = 250
"""Largest logits of an image over which mean and variance are taken."""


def standardized(logits: Tensor) -> Tensor:
    """Return the logits [B, K] less their mean, over their standard deviation (unbiased); both of the `TOP` largest.
    Where logits are equal up to rounding, the result is about zero.
    """
    top, number = logits.topk(min(TOP, logits.shape[1]), dim=1).values, torch.finfo(logits.dtype)
    least = (64 * number.eps * top.detach().abs().amax(1, keepdim=True)).clamp_min(number.tiny)
    return (logits - top.mean(1, keepdim=True)) / top.std(1, keepdim=True).maximum(least)


def mapped(logits: Tensor, s: float, c: float, p: float) -> Tensor:
    """Return s sign(w) |w|^p with w = GELU(u + c) and u the standardized logits [B, K]: large margins where the
    network is sure, small ones elsewhere. The order of the classes may change: GELU falls below -0.75."""
    w = torch.nn.functional.gelu(standardized(logits) + c)
    return s * w.sign() * w.abs().pow(p)


def probability_margins(logits: Tensor) -> Tensor:
    """Return largest probability less the second largest, [B]."""
    top = logits.softmax(1).topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def covering(margins: Tensor, beta: float) -> float:
    """Return the largest of margins [n] that at least a share beta of them reaches: an order statistic, no
    interpolation.
    """
    below = int((1 - beta) * len(margins) + 1e-9)
    return float(margins.sort().values[below])


@dataclass(frozen=True)
class FittedMap:
    """Parameters of MixedNUTS, and what they promise on the images that they were found on.

    Attributes:
        s, c, p: of the map.
        alpha: weight of the mapped robust network, 1 / (1 + threshold).
        threshold: probability margin above which the accurate network cannot overturn it.
        blend: the weight that the robust network as it is would need, without a map.
        held: share of the attacked images that are still right whose margin reaches the threshold.
        kept: share of the clean images that are wrong whose margin reaches it: out of reach of the accurate network.
        kept_plain: the same without a map.
        gap: median margin of the right answers under attack, and of the mistakes on clean images, after the map.
        gap_plain: the same without a map.
    """

    s: float
    c: float
    p: float
    alpha: float
    threshold: float
    blend: float
    held: float
    kept: float
    kept_plain: float
    gap: tuple[float, float]
    gap_plain: tuple[float, float]


def search(
    wrong: Tensor,
    held: Tensor,
    beta: float = 0.985,
    s_range: tuple[float, float] = (0.05, 5.0),
    c_range: tuple[float, float] = (-1.1, 0.0),
    p_range: tuple[float, float] = (1.0, 4.0),
    grid: int = 8,
) -> FittedMap:
    """Return the map that leaves the fewest mistakes of the robust network out of the reach of the accurate one, while
    a share beta of its right answers under attack stays out of it.

    Bai et al. 2024, "MixedNUTS: training-free accuracy-robustness balance via nonlinearly mixed classifiers", arXiv
    2402.02263. A mixture with (1 - alpha) / alpha = t keeps every answer of the robust network whose margin exceeds t.

    Args:
        wrong: its logits on clean images that it gets wrong, [n, K].
        held: its logits on attacked images that it still gets right, [m, K].
        beta: share of `held` to keep, in (0.5, 1].
        s_range, c_range, p_range: of the grid; s is spaced by factors.
        grid: values of each.

    Raises:
        UserError: a value out of range, or no images of a kind.
    """
    for name, good in (
        ("beta", 0.5 < beta <= 1),
        ("grid", grid >= 1),
        ("s_range", 0 < s_range[0] <= s_range[1]),
        ("c_range", c_range[0] <= c_range[1]),
        ("p_range", 1 <= p_range[0] <= p_range[1]),
    ):
        if not good:
            raise UserError(f"{name}={locals()[name]} is out of range; see docs/defenses.md")
    if not len(wrong):
        raise UserError("the robust network errs on none of these images: there is nothing to gain; give other images")
    if not len(held):
        raise UserError("the attack leaves no right answer: there is no robustness to keep; give a smaller eps")
    scales = torch.logspace(math.log10(s_range[0]), math.log10(s_range[1]), grid)
    shifts, powers = torch.linspace(*c_range, grid), torch.linspace(*p_range, grid)
    tried = []
    for s, c, p in product(scales.tolist(), shifts.tolist(), powers.tolist()):
        threshold = covering(probability_margins(mapped(held, s, c, p)), beta)
        if threshold > 0:
            left = (probability_margins(mapped(wrong, s, c, p)) >= threshold).double().mean()
            tried.append((float(left), -threshold, s, c, p))
    if not tried:
        raise UserError("every map ties right answers under attack; widen the ranges of the search")
    kept, negative, s, c, p = min(tried)  # of equals the one with the largest threshold: far from rounding
    threshold = -negative
    plain = covering(probability_margins(held), beta)
    reached = probability_margins(mapped(held, s, c, p)) >= threshold
    return FittedMap(
        s=s,
        c=c,
        p=p,
        alpha=1 / (1 + threshold),
        threshold=threshold,
        blend=1 / (1 + plain),
        held=float(reached.double().mean()),
        kept=kept,
        kept_plain=float((probability_margins(wrong) >= plain).double().mean()),
        gap=(_median(mapped(held, s, c, p)), _median(mapped(wrong, s, c, p))),
        gap_plain=(_median(held), _median(wrong)),
    )


def _median(logits: Tensor) -> float:
    return float(probability_margins(logits).median())


@dataclass(frozen=True)
class MixedNUTS(Defense):
    """(1 - alpha) onehot(g(x)) + alpha softmax(M(h(x))) of an accurate network g and a robust network h.

    From Bai et al., "MixedNUTS: training-free accuracy-robustness balance via nonlinearly mixed classifiers", arXiv
    2402.02263. M is `gauntlet.defenses.mixednuts.mapped`. The choice of g has no gradient and M is flat where h is
    sure, so an attack on the deployed forward sees little; the surrogates are the smooth path of its authors,
    (1 - a) softmax(g) + 0.9 a softmax(h) + 0.1 a softmax(M(h)), and each network by itself. The parameters come from
    `gauntlet calibrate mixednuts`, never from the images that are evaluated.

    Args:
        parts: "accurate" and "robust": any two networks.
        s, c, p: of the map; s > 0, p >= 1.
        alpha: weight of the robust network in [0.5, 1]; (1 - alpha) / alpha is the margin that g cannot overturn.
        blend: the weight a of the smooth path, in [0.5, 1].
        calibration: which images the parameters were fitted to.

    Raises:
        UserError: a value outside its range, or parts of other names.
    """

    card: ClassVar[Card] = Card(
        "A mixture of the choice of an accurate network and the mapped probabilities of a robust one.",
        source="Bai et al. 2024, arXiv 2402.02263",
        claim="that of its robust network, where its mapped margin is large enough",
        forwards=2.0,
    )

    names: ClassVar[tuple[str, ...]] = ("accurate", "robust")

    s: float = knob(5.0, above=0, hint="it multiplies the logits of a base model")
    c: float = -1.1
    p: float = knob(4.0, least=1, hint="a root has no gradient at zero")
    alpha: float = knob(0.999, least=0.5, most=1, hint="below it the accurate model decides")
    blend: float = knob(0.95, least=0.5, most=1, hint="below it the accurate model decides")
    calibration: CalibrationData = field(default_factory=CalibrationData)

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        accurate, robust = models["accurate"], models["robust"]

        def sharpened(x: Tensor, rng: Rng) -> Tensor:
            return mapped(robust(x), self.s, self.c, self.p)

        def predict(x: Tensor, rng: Rng) -> Tensor:
            return nuts(accurate(x), sharpened(x, rng), self.alpha)

        def blended(x: Tensor, rng: Rng) -> Tensor:
            logits = robust(x)
            path = mixed(logits, mapped(logits, self.s, self.c, self.p), 0.1)
            return mixed(accurate(x), path, self.blend)

        heads = (
            Head("blended", blended),
            Head("robust", plain(robust)),
            Head("mapped", sharpened),
            Head("accurate", plain(accurate)),
        )
        return Victim(predict, (accurate, robust), heads)


def nuts(accurate: Tensor, robust: Tensor, alpha: float) -> Tensor:
    """Return log((1 - alpha) onehot(accurate) + alpha softmax(robust)), [B, K]; robust: logits after the map. The
    choice of the accurate network has no gradient."""
    chosen = nn.functional.one_hot(accurate.argmax(1), accurate.shape[1]).bool()
    sure = torch.zeros_like(robust).masked_fill(~chosen, -torch.inf)
    return mixed(sure, robust, alpha)

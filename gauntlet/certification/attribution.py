"""Certificates for attributions: how much the pixels that speak for a class stay the same as the image moves."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gauntlet.certification.attribution_bounds import (
    NO_CLAIM,
    ROUNDING,
    certified_cosine,
    certified_overlap,
    distance_of,
    lost,
    published_cosine,
    sampling_error,
)
from gauntlet.certification.attribution_maps import METHODS, attribution, in_ball
from gauntlet.certification.certifier import Certificates, Kind, Work
from gauntlet.certification.sequential_test import floored
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MapClaims:
    """What maps prove of every map within the threat. radius, cosine: float64 [n]; overlap: in parts of `top`, [n]."""

    radius: Floats
    cosine: Floats
    overlap: Floats


@dataclass(frozen=True)
class Attribution(Knobs, key="certifier"):
    """Attributions averaged over uniform noise, and how far an l2 perturbation can turn them (arXiv 2405.06361).

    The attribution of the predicted class is that of the network at random points of an l2 ball around the image, each
    of unit length, averaged. The mean of `samples` of them is stored. With probability 1 - alpha everything that is
    claimed of an image holds at once: that its map has at least this cosine with the averaged attribution of the same
    class at every image within the radius, and shares at least so many of its most important pixels with it. The bound
    asks nothing of the network (`gauntlet.certification.attribution_bounds`), and the error of sampling is part of it.
    Two maps that are both sampled differ by the error of the other one besides.

    Args:
        method: gradient, of the score of the class; integrated: its mean on the way from the black image, times the
            image.
        steps: of integrated, parts of that way, each a pass.
        sigma: of the noise for each pixel; the ball has the radius sigma sqrt(d + 2).
        samples: draws for each image.
        alpha: probability with which what is claimed of an image may fail, in (0, 1).
        cosine: asked of the radius, in (0, 1).
        top: most important pixels whose overlap is certified; a pixel counts by the length of its channels.

    Raises:
        UserError: a value outside its range, or so few samples that nothing can be certified.
    """

    kind: ClassVar[Kind] = "sound_prob"
    sees_label: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = (Threat.ATTRIBUTION,)
    whole: ClassVar[bool] = False

    method: str = choice("gradient", METHODS)
    steps: int = knob(20, least=1)
    sigma: float = knob(0.25, above=0, hint="without noise nothing is certified")
    samples: int = knob(1000, least=1, below=1 << 31)
    alpha: float = knob(0.001, above=0, below=1, hint="such as 0.001")
    cosine: float = knob(0.8, above=0, below=1, hint="such as 0.8")
    top: int = knob(10, least=1)

    @property
    def confidence(self) -> float:
        return 1 - self.alpha

    def check(self, victim: Victim, threat: Threat) -> None:
        if victim.randomized:
            raise UserError(
                "certifier=attribution adds its own noise to a deterministic network, and this defense draws random "
                "numbers; take another defense, such as defense=none"
            )
        if sampling_error(1.0, self.samples, self.alpha) >= self.sine:
            raise UserError(
                f"certifier.samples={self.samples} with alpha={self.alpha} can certify no cosine of {self.cosine}; "
                "take more samples or a smaller cosine"
            )

    def __call__(
        self, victim: Victim, x: Tensor, y: Tensor | None, *, threat: Threat, rng: Rng, work: Work
    ) -> Certificates:
        if self.top > x.shape[2] * x.shape[3]:
            raise UserError(f"certifier.top={self.top} exceeds the {x.shape[2] * x.shape[3]} pixels of these images")
        predict = victim.predict(x, rng).argmax(1)
        maps = self.mean_map(victim, x, predict, rng, work)
        claims = self.claims(maps.double().cpu().numpy(), threat)
        passes = self.samples * (self.steps if self.method == "integrated" else 1)
        work.advance(len(x), 0)
        count, none = len(x), torch.zeros(len(x), 0)
        return Certificates(
            predict=predict.cpu(),
            radius=torch.from_numpy(claims.radius),
            forwards=torch.full((count,), 1 + passes),
            samples=torch.full((count,), self.samples),
            margin=torch.full((count,), torch.nan, dtype=torch.float64),
            trials=torch.full((count,), self.samples),
            counts=none.long(),
            lower=none.double(),
            stop=[""] * count,
            maps=maps.cpu(),
            columns={"cosine": claims.cosine.tolist(), "overlap": claims.overlap.tolist()},
        )

    @property
    def sine(self) -> float:
        """Return that of the angle whose cosine is asked."""
        return math.sqrt(1 - self.cosine**2)

    def radius(self, dimensions: int) -> float:
        """Return that of the ball of the noise, whose entries have the standard deviation sigma."""
        return self.sigma * math.sqrt(dimensions + 2)

    def mean_map(self, victim: Victim, x: Tensor, target: Tensor, rng: Rng, work: Work) -> Tensor:
        """Return the mean attribution over the noise, float32 [B, C, H, W]."""
        count, ball = len(x), self.radius(x[0].numel())
        total = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        together = max(1, work.batch_size // count)
        for first in range(0, self.samples, together):
            number = torch.arange(first, min(first + together, self.samples), device=x.device)
            rows = torch.arange(count, device=x.device).repeat(len(number))
            drawn = rng.select(rows)
            near = in_ball(x[rows], ball, drawn, number.repeat_interleave(count))
            found = attribution(victim.predict, near, target[rows], drawn, self.method, self.steps)
            total += found.reshape(len(number), *x.shape).sum(0)
            work.advance(0, len(rows) * (self.steps if self.method == "integrated" else 1))
        return (total / self.samples).float()

    def claims(self, maps: Floats, threat: Threat) -> MapClaims:
        """Return what maps [n, C, H, W] prove; nothing is drawn or passed for that."""
        flat = maps.reshape(len(maps), -1)
        norm, dimensions = np.linalg.norm(flat, axis=1), flat.shape[1]
        error = sampling_error(norm, self.samples, self.alpha) + ROUNDING
        room = np.maximum(norm * self.sine - error, 0) / 2
        radius = np.where(room > 0, distance_of(room, self.radius(dimensions), dimensions), 0.0)
        if threat.unbounded:
            nothing = np.full(len(maps), np.nan)
            return MapClaims(floored(radius), nothing, nothing)
        moved = error + 2 * lost(threat.radius, self.radius(dimensions), dimensions)
        importance = np.sqrt((maps**2).sum(1)).reshape(len(maps), -1)
        kept = certified_overlap(importance, self.top, moved) / self.top
        return MapClaims(floored(radius), certified_cosine(norm, moved), kept)


@dataclass(frozen=True)
class PublishedAttribution(Attribution):
    """`Attribution` by the cosine of the paper as it is summarized publicly, which is no certificate.

    It holds where the change of a map is orthogonal to it, which nothing ensures, and knows no error of sampling
    (`gauntlet.certification.attribution_bounds.published_cosine`). No overlap is given. Args: as of `Attribution`.
    """

    kind: ClassVar[Kind] = "estimate"

    @property
    def confidence(self) -> float:
        return 0.0

    def claims(self, maps: Floats, threat: Threat) -> MapClaims:
        flat = maps.reshape(len(maps), -1)
        norm, dimensions = np.linalg.norm(flat, axis=1), flat.shape[1]
        ball, room = self.radius(dimensions), norm * self.sine / self.cosine / 2
        radius = floored(np.where(room >= 1, 2 * ball, distance_of(room, ball, dimensions)))
        moved = math.nan if threat.unbounded else 2 * lost(threat.radius, ball, dimensions)
        cosine = np.where(norm > 0, published_cosine(norm, moved), NO_CLAIM)
        return MapClaims(radius, cosine, np.full(len(maps), math.nan))

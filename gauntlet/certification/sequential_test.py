"""When enough votes have been drawn, and what they prove at a confidence that holds over all looks together.

Only a claim that something is certified needs a share of alpha. Giving up never makes a false claim, so any rule may
decide it; the one here gives up when not even the best that is still plausible would be certified with all draws.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from gauntlet.certification.confidence_sequence import hopeful_hits, sequence_bound
from gauntlet.metrics.confidence import lower, randomized_lower, upper

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Radius = Callable[[Floats], Floats]


def looks(samples: int, first: int, ratio: float) -> tuple[int, ...]:
    """Numbers of draws after which the votes are looked at: first, then each `ratio` times as many, up to samples."""
    out = [min(first, samples)]
    while out[-1] < samples:
        out.append(min(samples, max(out[-1] + 1, math.ceil(ratio * out[-1]))))
    return tuple(out)


BOUNDS = ("sequence", "union", "randomized")

EARLY = 0.35
"""Part of alpha for what is certified before the last look, of the bound "sequence"."""

HORIZONS = 8
"""Numbers of draws at which it is asked whether an image may be certified."""


@dataclass
class Stopping:
    """Bounds at several looks that hold together, with alpha shared among the voters.

    "sequence": a confidence sequence with a third of alpha (`EARLY`), whose prior is what the selection drew of the
    image, and at the last look, where the hard images end, a Clopper-Pearson bound with the rest. An image is given up
    where at no number of draws the chance of a certificate is worth `futility` of them, in parts of the budget.
    "union", of versions before 0.2.0: Clopper-Pearson bounds at all looks, half of alpha for the last and equal parts
    of the other half for those before; an image is given up where the upper bound of its share, at confidence 1 -
    `futility`, would not be certified with all draws.
    "randomized": as "sequence", and at the last look each image has a number of its own in the bound, which fails with
    all of its part of alpha (`gauntlet.metrics.confidence.randomized_lower`).

    The greatest radius over the looks of one image is a certificate: all bounds hold together with probability at least
    1 - alpha, for the class that the selection chose. Without a selection the class is the most frequent one; then a
    claim needs more than half of the votes, and half of alpha pays for having chosen by the same votes.

    Args:
        radius: of the mechanism; [..., V] shares -> [...].
        alpha: probability with which the certificate of an image may fail.
        images, voters: how many there are.
        selection: draws that choose the class; 0: none.
        looks: numbers of draws; the last is the budget.
        radii: what is asked, ascending; empty: the radius itself, so nothing stops before the last look.
        futility: of giving up.
        bound: sequence, union or randomized.
        uniform: of bound randomized, in [0, 1], [n, V]; None: one, at which the bound is Clopper-Pearson's.

    Attributes:
        chosen: class of each image, int64 [n]; -1 where none was chosen.
        best: greatest radius so far, float64 [n]; not positive where nothing is certified.
        hits, trials, lower: votes for the class, draws, and lower bounds at that look, [n, V], [n] and [n, V].
        pilot: votes for the class in the selection, [n, V].
        why: what ended the sampling of each image.
    """

    radius: Radius
    alpha: float
    images: int
    voters: int
    selection: int
    looks: tuple[int, ...]
    radii: tuple[float, ...] = ()
    futility: float = 1e-3
    bound: str = BOUNDS[0]
    uniform: Floats | None = None

    def __post_init__(self) -> None:
        self.chosen = np.full(self.images, -1)
        self.best = np.full(self.images, -np.inf)
        self.lower = np.zeros((self.images, self.voters))
        self.pilot = np.zeros((self.images, self.voters), np.int64)
        self.hits = np.zeros((self.images, self.voters), np.int64)
        self.trials = np.zeros(self.images, np.int64)
        self.why = np.full(self.images, "budget", dtype=object)

    def share(self, look: int) -> float:
        """Return the part of alpha for one bound at that look, or for all looks but the last; -1: at the last."""
        parts = self.voters * (1 if self.selection else 2)
        early = len(self.looks) - 1
        if not early:
            return self.alpha / parts
        if self.bound != "union":
            return self.alpha / parts * (1 - EARLY if look in (-1, early) else EARLY)
        return self.alpha / (2 * parts) / (1 if look in (-1, early) else early)

    def hopeful(self, at: Ints, votes: Ints) -> Bools:
        """Choose the class (the lowest of those with the most votes of all voters) and say whether to go on."""
        self.chosen[at] = votes.sum(1).argmax(1)
        self.pilot[at] = hits = self._hits(at, votes)
        hopeless = (
            self._hopeless(at, np.zeros_like(hits), 0) if self.sequence else self._futile(at, hits, self.selection)
        )
        self.why[at[hopeless]] = "futility"
        return ~hopeless

    def ended(self, at: Ints, look: int, votes: Ints) -> Bools:
        """Take the bounds of this look into account and say whether it was enough."""
        if not self.selection:
            self.chosen[at] = votes.sum(1).argmax(1)
        hits, drawn = self._hits(at, votes), self.looks[look]
        bounds = self.bounds(at, hits, look)
        radius = self.radius(bounds)
        gain = at[radius > self.best[at]]
        mine = radius > self.best[at]
        self.best[gain], self.lower[gain] = radius[mine], bounds[mine]
        self.hits[gain], self.trials[gain] = hits[mine], drawn
        never = at[~mine & (self.trials[at] == 0)]
        self.hits[never], self.trials[never] = hits[~mine & (self.trials[at] == 0)], drawn
        if not self.radii:
            return np.zeros(len(at), bool)
        certified = self._asked(at) == np.inf
        futile = self._hopeless(at, hits, drawn) if self.sequence else self._futile(at, hits, drawn)
        futile &= ~certified
        self.why[at[certified]], self.why[at[futile]] = "certified", "futility"
        done: Bools = certified | futile
        return done

    @property
    def sequence(self) -> bool:
        """Return whether looks before the last one have a confidence sequence."""
        return self.bound != "union" and len(self.looks) > 1

    def bounds(self, at: Ints, hits: Floats | Ints, look: int) -> Floats:
        """Return the lower bounds of the shares of these images at a look, [b, V]; hits: whole or not, [b, V]."""
        trials, last = self.looks[look], None
        if look == len(self.looks) - 1 and self.uniform is not None:
            last = randomized_lower(hits, trials, self.share(look), self.uniform[at])
        elif look == len(self.looks) - 1 or not self.sequence:
            last = lower(hits, trials, self.share(look))
        if not self.sequence:
            assert last is not None
            return last
        earlier = sequence_bound(hits, trials, self.pilot[at], self.selection, self.share(0))
        return earlier if last is None else np.maximum(earlier, last)

    def _hits(self, at: Ints, votes: Ints) -> Ints:
        """Votes for the chosen class, [b, V]."""
        hits: Ints = np.take_along_axis(votes, self.chosen[at][:, None, None], 2)[:, :, 0]
        return hits

    def _asked(self, at: Ints) -> Floats:
        """Return the least radius asked that is not certified, [b]; infinite where all are."""
        asked = np.array([*self.radii, np.inf])
        certified = (floored(self.best[at])[:, None] >= asked) & (self.best[at][:, None] > 0)
        unmet: Floats = asked[certified.sum(1)]
        return unmet

    def _futile(self, at: Ints, hits: Ints, drawn: int) -> Bools:
        """Return whether the largest plausible shares would not certify what is asked next with all draws, bool [b]."""
        if not self.radii:
            return np.zeros(len(at), bool)
        total = self.looks[-1]
        plausible = lower(np.floor(upper(hits, drawn, self.futility) * total), total, self.share(-1))
        reach, asked = self.radius(plausible), self._asked(at)
        futile: Bools = ~((floored(reach) >= asked) & (reach > 0)) & (asked < np.inf)
        return futile

    def _hopeless(self, at: Ints, hits: Ints, drawn: int) -> Bools:
        """Return whether no number of draws to come is worth it: where certified with a probability below `futility`
        times their part of the budget, bool [b]. Voters are taken to be lucky together."""
        if not self.radii:
            return np.zeros(len(at), bool)
        asked, budget = self._asked(at), self.looks[-1]
        hopeless = asked < np.inf
        known = self.pilot[at].astype(float), np.full(hits.shape, float(self.selection))
        ahead = [look for look, ends in enumerate(self.looks) if ends > drawn]
        for look in sorted({ahead[-1 - len(ahead) * step // HORIZONS] for step in range(HORIZONS)} if ahead else ()):
            doubt = min(0.5, self.futility * (self.looks[look] - drawn) / budget)
            each = np.full(hits.shape, special.ndtr(special.ndtri(doubt) / math.sqrt(self.voters)))
            lucky = hopeful_hits(hits.astype(float), drawn, self.looks[look], known, each)
            reach = self.radius(self.bounds(at, lucky, look))
            hopeless &= ~((floored(reach) >= asked) & (reach > 0))
        return hopeless


def floored(radius: Floats) -> Floats:
    """Rounded down to six digits behind the point; never negative."""
    down: Floats = np.floor(np.nextafter(np.maximum(radius, 0), 0) * 1e6) / 1e6
    return down

"""Certificates for smoothed classifiers, by counting votes on noisy copies."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gauntlet.certification.certifiable import Dual, Mechanism, Smoothed
from gauntlet.certification.certifier import Certificates, Kind, Work
from gauntlet.certification.sequential_test import BOUNDS, Radius, Stopping, floored, looks
from gauntlet.certification.vote_sampling import VoteCounts, count
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim

RULES = ("fixed", "single_phase", "decide", "grid")

UNION, RANDOMIZED = BOUNDS[1:]
"""The bound of runs before 0.2.0, which has no part in their identity, and the one that is drawn for each image."""

MOST = 1 << 31
"""Draws for which there are numbers."""


@dataclass(frozen=True)
class Smoothing(Knobs, key="certifier"):
    """CERTIFY of Cohen et al. 2019 (arXiv 1902.02918), and its sequential forms.

    `selection` draws choose the class, fresh ones bound its share from below (one-sided Clopper-Pearson), and the bound
    gives the radius in which the class keeps the majority. The label is not used. An image whose bound does not exceed
    one half gets no prediction.

    "fixed" draws `samples` for every image and is what the literature reports. "single_phase" lets the same draws
    choose and bound the class, at half of alpha; for one network that votes. "decide" asks whether an image is
    certified at one radius and "grid" the same for several; they look at the votes after `first` draws and each `ratio`
    times as many, by bounds that hold at all looks together, and stop as soon as they know. Radii between those asked
    are sound, but smaller than they might be.

    Args:
        alpha: probability with which the certificate of an image may fail, in (0, 1).
        samples: draws of the bound, at most.
        selection: draws that choose the class; single_phase has none.
        rule: fixed, single_phase, decide or grid.
        radii: what decide (one) and grid ask; null: eps of the threat, and its quarters up to twice eps, with 0.
        first, ratio: looks of decide and grid.
        futility: chance of a certificate that is worth all draws of the budget, and half of it half of them, in (0, 1);
            an image with less is given up. Of bound union: confidence with which it is.
        bound: of decide and grid: sequence, whose prior is what the selection saw of the image; union, of looks, as
            before 0.2.0 (`gauntlet.certification.sequential_test.Stopping`). Of these and fixed: randomized, at the
            last look by a number drawn for each image with the seed of the run, fails with all of alpha.

    Raises:
        UserError: a value outside its range, or so few samples that nothing can be certified.
    """

    kind: ClassVar[Kind] = "sound_prob"
    sees_label: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = ("l2", "l1", "l0")
    whole: ClassVar[bool] = True
    takes: ClassVar[tuple[type, str]] = (Smoothed, "defense=gaussian_smoothing")

    alpha: float = knob(0.001, above=0, below=1, hint="such as 0.001")
    samples: int = knob(100_000, least=1, below=MOST)
    selection: int = knob(100, least=1, below=MOST)
    rule: str = choice("fixed", RULES)
    radii: list[float] | None = None
    first: int = knob(100, least=1, below=MOST)
    ratio: float = knob(1.15, above=1)
    futility: float = knob(0.01, above=0, below=1, hint="such as 0.01")
    bound: str = choice(BOUNDS[0], BOUNDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule == "single_phase" and self.takes[0] is Dual:
            raise UserError("certifier.rule=single_phase is sound for one network that votes; take rule=fixed")
        if self.rule == "single_phase" and self.bound == RANDOMIZED:
            raise UserError("certifier.bound=randomized needs draws that did not choose the class; take rule=fixed")
        radii = self.radii or []
        if radii and not self._asks:
            raise UserError(f"certifier.radii are for rule=decide and rule=grid; rule={self.rule} gives every radius")
        if len(radii) > 1 and self.rule == "decide":
            raise UserError("certifier.radii: rule=decide asks for one radius; take rule=grid for several")
        if any(not 0 <= radius < np.inf for radius in radii):
            raise UserError(f"certifier.radii={list(radii)} must be radii of at least 0")

    @property
    def _asks(self) -> bool:
        """Return whether the rule stops where it knows what was asked."""
        return self.rule in ("decide", "grid")

    @property
    def confidence(self) -> float:
        return 1 - self.alpha

    def check(self, victim: Victim, threat: Threat) -> None:
        mechanism = self._mechanism(victim)
        if mechanism.norm != threat.norm:
            raise UserError(f"the noise of this defense certifies {mechanism.norm}; take threat={mechanism.norm}")
        plan = self.most(self._plan(mechanism, 1, threat))
        votes = np.zeros((1, mechanism.voters, 1), np.int64)
        if plan.selection:  # with all votes of the selection, too
            plan.hopeful(np.zeros(1, np.int64), votes + plan.selection)
        for look, drawn in enumerate(plan.looks):
            plan.ended(np.zeros(1, np.int64), look, votes + drawn)
        most, asked = float(floored(plan.best)[0]), min((r for r in plan.radii if r > 0), default=0.0)
        if plan.best[0] <= 0 or most < asked:
            raise UserError(
                f"certifier.samples={self.samples} with alpha={self.alpha} can certify no radius above {most:g}"
                + (f", {asked:g} is asked" if plan.radii else "")
                + "; take more samples, a smaller radius or more noise"
            )

    def __call__(
        self, victim: Victim, x: Tensor, y: Tensor | None, *, threat: Threat, rng: Rng, work: Work
    ) -> Certificates:
        mechanism = self._mechanism(victim)
        if hasattr(mechanism.noise, "admit"):
            mechanism.noise.admit(x)
        with torch.no_grad():
            classes = victim.predict(x[:1], rng.select(torch.arange(1, device=x.device))).shape[1] if len(x) else 1
        plan = self.drawn(self._plan(mechanism, len(x), threat), rng)
        return self.result(count(mechanism, x, rng, classes, plan, work), plan)

    def drawn(self, plan: Stopping, rng: Rng) -> Stopping:
        """Return the plan with the numbers of a randomized bound, which depend on seed and sample alone.

        rng: the stream of the certifier, of the images of the plan.
        """
        if self.bound == RANDOMIZED:
            high, low = rng.stream("bound").bits((2, plan.voters)).cpu().numpy().swapaxes(0, 1)
            plan.uniform = ((high << 21) | (low >> 11)) * 2.0**-53
        return plan

    def most(self, plan: Stopping) -> Stopping:
        """Return the plan with the numbers by which a randomized bound is largest."""
        if self.bound == RANDOMIZED:
            plan.uniform = np.zeros((plan.images, plan.voters))
        return plan

    def result(self, counted: VoteCounts, plan: Stopping) -> Certificates:
        """Return the certificates that counted votes prove."""
        sure = plan.best > 0
        return Certificates(
            predict=torch.from_numpy(np.where(sure, plan.chosen, -1)),
            radius=torch.from_numpy(floored(plan.best)),
            forwards=torch.from_numpy(counted.forwards),
            samples=torch.from_numpy(counted.forwards // plan.voters),
            margin=torch.full((len(sure),), torch.nan, dtype=torch.float64),
            trials=torch.from_numpy(plan.trials),
            counts=torch.from_numpy(plan.hits),
            lower=torch.from_numpy(plan.lower),
            stop=[str(word) for word in plan.why],
            columns={"pilot": plan.pilot.tolist()} if plan.sequence else {},
        )

    def _mechanism(self, victim: Victim) -> Any:
        kind, example = self.takes
        if not isinstance(victim.mechanism, kind):
            raise UserError(
                f"this certifier needs a {kind.__name__.lower()} defense, such as {example}: it certifies what is "
                "deployed, and adds no noise of its own"
            )
        return victim.mechanism

    def _radius(self, mechanism: Any) -> Radius:
        """Return how shares of votes become radii."""
        radius: Radius = mechanism.radius
        return radius

    def _plan(self, mechanism: Mechanism, images: int, threat: Threat) -> Stopping:
        return Stopping(
            radius=self._radius(mechanism),
            alpha=self.alpha,
            images=images,
            voters=mechanism.voters,
            selection=0 if self.rule == "single_phase" else self.selection,
            looks=looks(self.samples, self.first, self.ratio) if self._asks else (self.samples,),
            radii=self._radii(threat) if self._asks else (),
            futility=self.futility,
            bound=self.bound,
        )

    def _radii(self, threat: Threat) -> tuple[float, ...]:
        if self.radii:
            return tuple(sorted(self.radii))
        if threat.unbounded:
            raise UserError(f"certifier.rule={self.rule} needs a radius; give certifier.radii=[0.5] or threat.eps=0.5")
        eps = threat.radius
        return (eps,) if self.rule == "decide" else tuple(eps * quarter / 4 for quarter in range(9))

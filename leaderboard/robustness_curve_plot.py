"""Robustness curves of an entry: accuracy at every eps, from runs without a bound, as steps and as a chart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gauntlet.errors import printable
from gauntlet.leaderboard.chart import Axis, Chart, Line, dashed
from gauntlet.leaderboard.collect import Evidence
from gauntlet.leaderboard.sample_verdicts import Floats, Ints, locate
from gauntlet.metrics.curve_steps import robustness_steps
from gauntlet.metrics.display import distinct_names
from gauntlet.metrics.perturbation_size import nearest


@dataclass(frozen=True)
class RobustnessCurve:
    """Share of the samples that survive at each eps: from eps[i] on it is accuracy[i], in [0, 1]."""

    name: str
    eps: tuple[float, ...]
    accuracy: tuple[float, ...]
    best: bool = False  # the worst case over all runs at each eps


def curves(pool: Sequence[Evidence], selection: str, ids: Ints) -> tuple[RobustnessCurve, ...]:
    """Return the worst case of each sample over all runs of one model, then each run without a bound; empty without
    such runs.

    Args:
        pool: all runs of the model on the data set in the norm.
        selection: of the entry; only its own runs without a bound have a curve.
        ids: samples of the entry, [n].
    """
    own = [e for e in pool if np.isinf(e.run.threat.radius) and e.run.data.selection == selection and len(e.ids)]
    if not own:
        return ()
    best = nearest_over(pool, ids)
    each = [_curve(name, _distances(evidence, ids)) for name, evidence in zip(attack_names(own), own, strict=True)]
    return (_curve("all runs", best, best=True), *each)


def attack_names(runs: Sequence[Evidence]) -> list[str]:
    """Return the attacks of these runs, distinguished by their folders where they have one name."""
    folders = [evidence.run.place.rpartition("/")[2] for evidence in runs]
    return distinct_names([evidence.run.column for evidence in runs], folders)


def nearest_over(pool: Sequence[Evidence], ids: Ints) -> Floats:
    """Return the distance of the nearest adversarial example on each sample over all runs, [n]: 0 where it is wrong
    without an attack, infinite where none was found."""
    return nearest([_distances(evidence, ids) for evidence in pool if len(evidence.ids)])


def _distances(evidence: Evidence, ids: Ints) -> Floats:
    """Return the distance of the nearest adversarial example on each sample: 0 where it is wrong without an attack,
    infinite where nothing is known.
    """
    place, there = locate(ids, evidence.ids)
    found = np.where(evidence.clean_wrong, 0.0, evidence.nearest_distance)[place]
    return np.where(there, found, np.inf)


def _curve(name: str, distance: Floats, best: bool = False) -> RobustnessCurve:
    eps, survivors = robustness_steps(distance)
    return RobustnessCurve(name, tuple(eps), tuple(survivors), best)


def curve_chart(found: Sequence[RobustnessCurve], eps: float) -> Chart:
    """Return the chart of these curves. eps: of the entry, marked if finite."""
    end = max(each.eps[-1] for each in found) * 1.02 or 1.0
    lines = [
        Line(
            printable(curve.name),
            [*((x, round(100 * y, 3)) for x, y in zip(curve.eps, curve.accuracy, strict=True)),
             (end, round(100 * curve.accuracy[-1], 3))],
            "worst" if curve.best else "curve",
            stepped=True,
        )
        for curve in found
    ]  # fmt: skip
    return Chart(
        "Robust accuracy against ε",
        Axis("ε", 0.0, end),
        Axis("robust accuracy", -2, 102, " %"),
        dashed(lines),
        at=eps if np.isfinite(eps) and eps < end else None,
    )

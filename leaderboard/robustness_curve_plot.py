"""Robustness curves of an entry: accuracy at every eps, from runs without a bound, as steps and as a figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from gauntlet.errors import printable
from gauntlet.leaderboard.collect import Evidence
from gauntlet.leaderboard.sample_verdicts import Floats, Ints, locate
from gauntlet.metrics.curve_steps import robustness_steps
from gauntlet.metrics.display import distinct_names
from gauntlet.metrics.perturbation_size import nearest

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


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


def curve_figure(found: Sequence[RobustnessCurve], eps: float) -> dict[str, Any]:
    """Return the figure, plain JSON for plotly.js; `meta` is the role of a trace. eps: of the entry, marked if
    finite."""
    traces = [
        go.Scatter(
            x=list(curve.eps),
            y=[round(100 * share, 3) for share in curve.accuracy],
            mode="lines",
            name=plain(curve.name),
            line={"shape": "hv", "width": 2.5 if curve.best else 1.2, "dash": DASHES[number % len(DASHES)]},
            meta="worst" if curve.best else "curve",
        )
        for number, curve in enumerate(found)
    ]
    end = max(each.eps[-1] for each in found)
    axis = {"zeroline": False, "showline": True, "ticks": "outside"}
    layout: dict[str, Any] = {
        "hovermode": "x unified",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 64, "r": 24, "t": 36, "b": 52},
        "xaxis": axis | {"title": {"text": "ε"}, "range": [0, end * 1.02 or 1.0]},
        "yaxis": axis | {"title": {"text": "robust accuracy"}, "ticksuffix": " %", "range": [-2, 102]},
    }
    if np.isfinite(eps):
        mark = {"type": "line", "x0": eps, "x1": eps, "yref": "paper", "y0": 0, "y1": 1}
        layout["shapes"] = [mark | {"line": {"width": 1, "dash": "dot"}}]
    result: dict[str, Any] = go.Figure(traces, layout).to_plotly_json()
    return result


def plain(text: str) -> str:
    """Return a text that plotly.js shows as it is: it would take tags for formatting."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

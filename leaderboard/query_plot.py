"""Success against queries on an entry's page: what attacks without gradients had broken after so many questions."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from gauntlet.errors import UserError
from gauntlet.leaderboard.collect import Evidence
from gauntlet.leaderboard.robustness_curve_plot import DASHES, attack_names, plain
from gauntlet.metrics.curve_steps import query_steps
from gauntlet.metrics.query_curve import QueryCurve, curve


class NamedQueryCurve(NamedTuple):
    """The queries of one run, under the name of its attack."""

    name: str
    curve: QueryCurve


def queries(own: Sequence[Evidence]) -> tuple[NamedQueryCurve, ...]:
    """Return the query curves of the runs of an entry that took no gradient, in their order; those that cannot be read
    are left out.
    """
    found = []
    for evidence in own:
        if evidence.passes.forwards and not evidence.passes.backwards and not evidence.run.threat.unbounded:
            try:
                found.append((evidence, curve(evidence.run.folder)))
            except (UserError, OSError, ValueError):  # what is damaged, the entry's page tells
                continue
    names = attack_names([evidence for evidence, _ in found])
    return tuple(NamedQueryCurve(name, each) for name, (_, each) in zip(names, found, strict=True) if len(each.queries))


def query_figure(found: Sequence[NamedQueryCurve]) -> dict[str, Any]:
    """Return the figure, plain JSON for plotly.js, over the logarithm of the queries."""
    traces = [
        go.Scatter(
            x=[x for x, _ in steps],
            y=[round(100 * y, 3) for _, y in steps],
            mode="lines",
            name=plain(each.name),
            line={"shape": "hv", "width": 1.8, "dash": DASHES[number % len(DASHES)]},
            meta="worst" if len(found) == 1 else "curve",
        )
        for number, each in enumerate(found)
        if (steps := query_steps(each.curve))
    ]
    last = max((trace.x[-1] for trace in traces), default=1)
    axis = {"zeroline": False, "showline": True, "ticks": "outside"}
    layout: dict[str, Any] = {
        "hovermode": "x unified",
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 64, "r": 24, "t": 36, "b": 52},
        "xaxis": axis | {"title": {"text": "queries"}, "type": "log", "range": [0, 1.02 * math.log10(max(last, 10))],
                         "dtick": 1},
        "yaxis": axis | {"title": {"text": "success"}, "ticksuffix": " %", "range": [-2, 102]},
    }  # fmt: skip
    result: dict[str, Any] = go.Figure(traces, layout).to_plotly_json()
    return result

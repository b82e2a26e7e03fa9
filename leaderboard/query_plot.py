"""Success against queries on an entry's page: what attacks without gradients had broken after so many questions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from gauntlet.errors import UserError, printable
from gauntlet.leaderboard.chart import Axis, Chart, Line, dashed
from gauntlet.leaderboard.collect import Evidence
from gauntlet.leaderboard.robustness_curve_plot import attack_names
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


def query_chart(found: Sequence[NamedQueryCurve]) -> Chart:
    """Return the chart of these curves, over the logarithm of the queries."""
    role = "worst" if len(found) == 1 else "curve"
    lines = [
        Line(printable(each.name), [(x, round(100 * y, 3)) for x, y in steps], role, stepped=True)
        for each in found
        if (steps := query_steps(each.curve))
    ]
    last = max((line.points[-1][0] for line in lines), default=1)
    return Chart(
        "Share of broken samples against queries",
        Axis("queries", 0.0, 1.02 * math.log10(max(last, 10)), log=True),
        Axis("success", -2, 102, " %"),
        dashed(lines),
    )

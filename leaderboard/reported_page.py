"""The page of accuracies that publications report, without evidence: apart from all tables, and never ranked."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment

from gauntlet.evidence.reported_table import Accuracies, ReportedTable
from gauntlet.leaderboard.site_writer import Site
from gauntlet.metrics.display import points

ADDRESS = "reported.html"
SHOWN = 25
"""Systems of a table that the page shows."""


def write_reported(site: Site, env: Environment, tables: Sequence[ReportedTable]) -> str:
    """Write the page; return its place, empty where nothing was imported."""
    if not tables:
        return ""
    found = [_table(each, name, systems) for each in tables for name, systems in each.tables.items() if systems]
    site.write(ADDRESS, env.get_template("reported.html.j2").render(tables=found, shown=SHOWN, root=""))
    return ADDRESS


def _table(reported: ReportedTable, dataset: str, systems: Accuracies) -> dict[str, Any]:
    """Return a table: the systems that the measure with the lowest mean leaves most of."""
    measures = sorted({name for found in systems.values() for name in found})
    means = {name: _mean([found[name] for found in systems.values() if name in found]) for name in measures}
    hardest = min(measures, key=lambda name: (means[name], name))
    ordered = sorted(systems, key=lambda system: (-systems[system].get(hardest, -1.0), len(system), system))
    return {
        "title": f"{dataset}, {reported.source}",
        "digest": reported.digest,
        "count": len(systems),
        "hardest": hardest,
        "measures": measures,
        "means": [points(means[name]) for name in measures],
        "rows": [
            (system, reported.about.get(system, ""), [points(systems[system].get(name)) for name in measures])
            for system in ordered[:SHOWN]
        ],
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

"""Overall rankings across tables: `gauntlet rankings runs`. Several rules side by side, and where they disagree."""

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gauntlet.commands.board_input import RunSelection, add_arguments
from gauntlet.errors import UserError, printable
from gauntlet.leaderboard.overall_ranking import COVERAGE, OverallRanking, overall
from gauntlet.metrics.display import DASH, csv_row, points
from gauntlet.system.atomic_file import write_atomically


def lines(found: OverallRanking) -> Iterator[str]:
    """Yield the ranking by win rate, the order of every rule, and the pairs on which they disagree."""
    width = max(map(len, found.systems)) + 2
    yield f"{len(found.systems)} systems, {len(found.tables)} tables: " + "; ".join(found.tables)
    yield ""
    yield f"{'':<6}{'system':<{width}}{'win rate':>9}{'tables':>8}{'bootstrap':>11}{'no table':>10}{'no system':>11}"
    place = _places(found)
    for i in found.order:
        ranks = [DASH] * 3
        if found.ranked[i]:
            ranges = found.bootstrap[i], found.without_a_table[i], found.without_a_system[i]
            ranks = [f"{low}-{high}" for low, high in ranges]
        covered = f"{found.covered[i]}/{len(found.tables)}"
        yield (
            f"{place[i]:<6}{found.systems[i]:<{width}}{points(float(found.win_rate[i])):>9}{covered:>8}"
            f"{ranks[0]:>11}{ranks[1]:>10}{ranks[2]:>11}"
        )
    yield f"(a rank needs {COVERAGE:.0%} of the tables; bootstrap: 95 % of its ranks with the images drawn again;"
    yield " no table, no system: its ranks with one of them left out)"
    yield ""
    for rule in found.rules:
        order = " > ".join(" = ".join(found.systems[i] for i in group) for group in rule.groups)
        yield f"{rule.name}: {order or rule.undefined}"
    if found.dominant is not None:
        yield f"{found.systems[found.dominant]} beats every other system head to head."
    for i, j in found.disagreement:
        yield f"The rules disagree on {found.systems[i]} and {found.systems[j]}."


def as_csv(found: OverallRanking) -> str:
    """Return the scores, the win rates and the place by every rule, a line for each system."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    rules = [rule.name for rule in found.rules]
    writer.writerow(["system", *found.tables, "win_rate", "tables", *rules])
    for i in found.order:
        scores = ["" if np.isnan(score) else repr(float(score)) for score in found.scores[i]]
        places = ["" if rule.place(i) is None else rule.place(i) for rule in found.rules]
        rate = "" if np.isnan(found.win_rate[i]) else repr(float(found.win_rate[i]))
        writer.writerow(csv_row([found.systems[i], *scores, rate, found.covered[i], *places]))
    return sink.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Print the overall rankings of the runs below the given folders; 1 where two tables do not share two systems."""
    parser = argparse.ArgumentParser(prog="gauntlet rankings", description="Rankings of systems across tables.")
    add_arguments(parser)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write scores and places as data")
    options = parser.parse_args(arguments)
    try:
        found = overall(RunSelection.of(options).tables())
        if found is None:
            raise UserError(
                "an overall ranking needs two tables (data set and threat) with the same two ranked entries in both; "
                "evaluate two defenses under two threats by attack=gauntlet, or rank all by --floor any"
            )
        if options.csv is not None:
            write_atomically(options.csv, as_csv(found).encode())
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1
    sys.stdout.write("\n".join(map(printable, lines(found))) + "\n")
    return 0


def _places(found: OverallRanking) -> dict[int, str]:
    """Return the place of each system by win rate, equal where the rates are; a dash without a rank."""
    rule = found.rules[0]
    return {i: str(rule.place(i) or DASH) for i in range(len(found.systems))}

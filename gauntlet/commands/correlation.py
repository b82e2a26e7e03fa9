"""Do cheap measures order systems as costly ones do? `gauntlet study correlation runs`: Kendall and Spearman.

Measures are the accuracies of the entries of a table of the board, clean, by each attack and in the worst case, and
those that a publication reports (`gauntlet import FILE --from nasrobbench201`).
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from gauntlet.errors import UserError, printable
from gauntlet.evidence.reported_table import FOLDER, MARK, ReportedTable, reported_tables
from gauntlet.evidence.run_folder import find_runs
from gauntlet.leaderboard.build import scored
from gauntlet.leaderboard.entry import Board, Entry
from gauntlet.metrics.rank_correlation import LEAST, correlated

WORST = "worst case"


@dataclass(frozen=True)
class MeasuredSystems:
    """A table of systems. measures: name -> system -> accuracy, a share."""

    title: str
    measures: Mapping[str, Mapping[str, float]]

    @property
    def target(self) -> str:
        """Return the measure that the others are held against: the worst case, or the one that leaves least."""
        return (
            WORST
            if WORST in self.measures
            else min(self.measures, key=lambda name: fmean(self.measures[name].values()))
        )


def of_reported(table: ReportedTable) -> Iterator[MeasuredSystems]:
    """Yield a table for each data set of a publication."""
    for dataset, systems in table.tables.items():
        measures: dict[str, dict[str, float]] = {}
        for system, found in systems.items():
            for name, share in found.items():
                measures.setdefault(name, {})[system] = share
        if measures:
            yield MeasuredSystems(f"{dataset} · {table.source} · {MARK}", measures)


def of_board(board: Board) -> MeasuredSystems:
    """Return the table of a board, entries whose number is known."""
    measures: dict[str, dict[str, float]] = {}
    for entry in board.entries:
        if entry.unknown or entry.bounded:
            continue
        for name, share in _measures(entry):
            measures.setdefault(name, {})[entry.victim] = share
    return MeasuredSystems(f"{board.data.name} · {board.threat.norm} {board.eps} · evidence", measures)


def _measures(entry: Entry) -> Iterator[tuple[str, float]]:
    yield WORST, entry.accuracy
    if entry.clean_accuracy is not None:
        yield "clean", entry.clean_accuracy
    for attack in entry.attacks:
        if not attack.open and not attack.spread:
            yield attack.column, attack.expected.mean if attack.expected else attack.survivors / entry.n


def lines(table: MeasuredSystems, target: str) -> Iterator[str]:
    """Yield the correlations of every measure with the target."""
    wanted = table.measures[target]
    yield table.title
    yield f"against {target}: {len(wanted)} systems, mean accuracy {fmean(wanted.values()):.2%}"
    width = max(map(len, [*table.measures, "measure"])) + 2
    yield f"{'measure':<{width}}{'systems':>8}{'mean':>9}{'Kendall':>9}{'95 %':>17}{'Spearman':>10}{'95 %':>17}"
    for name, found in sorted(table.measures.items()):
        shared = sorted(found.keys() & wanted.keys())
        if name == target:
            continue
        row = f"{name:<{width}}{len(shared):>8}"
        if len(shared) < LEAST:
            yield f"{row}   fewer than {LEAST} systems have both"
            continue
        both = correlated([found[system] for system in shared], [wanted[system] for system in shared])
        row += f"{fmean(found[system] for system in shared):>9.2%}"
        if not both.defined:
            yield f"{row}   undefined: a measure is the same for all systems"
            continue
        ends = [f"{low:.3f} to {high:.3f}" for low, high in (both.kendall_interval, both.spearman_interval)]
        yield f"{row}{both.kendall:>9.3f}{ends[0]:>17}{both.spearman:>10.3f}{ends[1]:>17}"
    yield "(Kendall: tau-b; the intervals draw the systems again)"


def tables_of(place: Path) -> list[MeasuredSystems]:
    """Return the tables of a runs folder, or of a file of reported accuracies.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if place.is_file():
        return list(of_reported(ReportedTable.read(place)))
    if not place.is_dir():
        raise UserError(f"{place} is neither a runs folder nor a file that gauntlet import FILE --from NAME wrote")
    found = [of_board(board) for board in scored(place)[0]] if find_runs(place) else []
    found += [table for reported in reported_tables(place) for table in of_reported(reported)]
    kept = [table for table in found if table.measures and len(table.measures[table.target]) >= LEAST]
    if not kept:
        raise UserError(
            f"no table in {place} has {LEAST} systems with a known number; evaluate more defenses, or import a "
            f"publication's table into {place / FOLDER}"
        )
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the correlations of every table that has the target; 1 where there is none."""
    parser = argparse.ArgumentParser(prog="gauntlet study correlation", description="Rank correlations of measures.")
    parser.add_argument(
        "places", nargs="+", type=Path, metavar="RUNS", help="a runs folder, or a file in its _reported"
    )
    parser.add_argument(
        "--target", metavar="MEASURE", help="what the others are held against (default: the worst case)"
    )
    options = parser.parse_args(arguments)
    try:
        tables = [table for place in options.places for table in tables_of(place)]
    except UserError as cause:
        sys.stderr.write(f"error: {printable(cause)}\n")
        return 1
    out = []
    for table in tables:
        target = options.target or table.target
        if target in table.measures:
            out.append("\n".join(lines(table, target)))
        else:
            known = ", ".join(map(printable, sorted(table.measures)))
            sys.stderr.write(f"left out: {table.title}: --target {target} is none of its measures {known}\n")
    if not out:
        sys.stderr.write(f"error: --target {options.target} is no measure of any table\n")
        return 1
    sys.stdout.write("\n\n".join(out) + "\n")
    return 0

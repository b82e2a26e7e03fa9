"""Entries side by side on the same samples: `gauntlet compare RUN RUN [RUN ...]`.

Each argument is a run folder, or a folder whose runs all attack one model under one threat; then its worst case counts.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gauntlet.errors import UserError, printable
from gauntlet.leaderboard.build import scored
from gauntlet.leaderboard.comparison import compared, unfit
from gauntlet.leaderboard.entry import Board, Entry
from gauntlet.metrics.display import number, points, span

MOST = 5
"""Entries that can be compared at a time."""


@dataclass(frozen=True, eq=False)
class Compared:
    """One argument: its entry and its table."""

    label: str
    board: Board
    entry: Entry


def read(folder: Path) -> Compared:
    """Return the one entry of a folder.

    Raises:
        UserError: there is none, or more than one, or it has errors.
    """
    boards, damaged = scored(folder)
    entries = [(board, entry) for board in boards for entry in board.entries]
    if damaged:
        raise UserError(f"{damaged[0]}; a comparison needs whole evidence")
    if len(entries) != 1:
        what = "there is no attack run" if not entries else f"there are {len(entries)} entries"
        raise UserError(f"{what} in {folder}; name one run folder, or a folder with runs against one model")
    ((board, entry),) = entries
    if board.threat.unbounded:
        raise UserError(f"{folder} has no eps; its distances are compared by: gauntlet curves")
    if why := unfit(entry):
        raise UserError(f"{folder} cannot be compared: {why}; finish the run first, or see the board")
    attacks = "+".join(attack.column for attack in entry.attacks)
    return Compared(f"{entry.defense} · {entry.model} · {attacks}", board, entry)


def lines(found: Sequence[Compared]) -> Iterator[str]:
    """Yield the entries, every pair, and which samples are broken by whom."""
    labels, n = [f"[{chr(65 + i)}]" for i in range(len(found))], found[0].entry.n
    first = found[0].board
    yield f"{first.data.name} · {first.threat.norm} · eps {first.eps} · n = {n}, the same samples for all"
    yield ""
    width = max(len(each.label) for each in found) + 2
    yield f"{'':<4}{'':<{width}}{'clean':>8}{'robust':>8}   {'95 % interval':<20}{'F + 2 B':>9}"
    for label, each in zip(labels, found, strict=True):
        entry = each.entry
        yield (
            f"{label:<4}{each.label:<{width}}{points(entry.clean_accuracy, 2):>8}{points(entry.accuracy, 2):>8}   "
            f"{span(*entry.interval):<20}{number(entry.cost, ',.0f'):>9}"
        )
    sides = compared([each.entry for each in found])
    yield ""
    heads = f"{'pair':<10}{'difference':>11}   {'95 % interval':<20}"
    yield f"{heads}{'first alone':>12}{'second alone':>13}{'p (Holm)':>10}"
    for pair in sides.pairs:
        low, high = pair.interval
        yield (
            f"{labels[pair.first] + ' - ' + labels[pair.second]:<10}{100 * pair.difference:>+11.2f}   "
            f"{f'{100 * low:+.2f} to {100 * high:+.2f}':<20}{pair.first_only:>12}{pair.second_only:>13}{pair.p:>10.2g}"
        )
    yield "(points of robust accuracy; alone: samples that only this one withstands; p: exact McNemar test)"
    yield ""
    yield "broken samples:"
    for key, count in sides.overlap.items():
        yield f"  by {' and '.join(labels[i] for i in key)}{' alone' if len(key) == 1 else ''}: {count}"
    for pair, (same, both) in zip(sides.pairs, sides.agreement, strict=True):
        if both:
            names = f"{labels[pair.first]} and {labels[pair.second]}"
            yield f"{names} reach the same class on {same} of {both} samples that both broke"


def main(arguments: list[str] | None = None) -> int:
    """Print a comparison; 1 where the arguments cannot be compared."""
    parser = argparse.ArgumentParser(prog="gauntlet compare", description="Compare entries on the same samples.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of one entry")
    options = parser.parse_args(arguments)
    try:
        if not 2 <= len(options.runs) <= MOST:
            raise UserError(f"name two to {MOST} entries, not {len(options.runs)}")
        found = [read(folder) for folder in options.runs]
        _same_task(found, options.runs)
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1
    sys.stdout.write("\n".join(map(printable, lines(found))) + "\n")
    return 0


def _same_task(found: Sequence[Compared], folders: Sequence[Path]) -> None:
    first = found[0].board
    for each, folder in zip(found[1:], folders[1:], strict=True):
        for what, one, other in (
            ("data set", first.data.name, each.board.data.name),
            ("data", first.data.digest, each.board.data.digest),
            ("selection of samples", first.data.selection, each.board.data.selection),
            ("threat", first.threat, each.board.threat),
            ("kind of accuracy", found[0].entry.measure, each.entry.measure),
        ):
            if one != other:
                raise UserError(f"{folder} has another {what} than {folders[0]}; compare runs on the same task")

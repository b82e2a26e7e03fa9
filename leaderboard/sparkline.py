"""Robust accuracy over eps in one glance: the same model on the same samples, in tables of one norm."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from gauntlet.leaderboard.chart import number
from gauntlet.leaderboard.entry import Board, Entry

WIDTH, HEIGHT = 88, 22
"""Of the picture, in its own units; 2 of them are left free at each edge."""


@dataclass(frozen=True)
class Sparkline:
    """The line of one entry; coordinates of the picture.

    Attributes:
        line: the `d` of a path: from the clean accuracy, at eps 0, over all eps that were attacked.
        at: the place of the entry itself.
        said: the numbers, for who does not see it.
    """

    line: str
    at: tuple[str, str]
    said: str


def sparklines(boards: Sequence[Board]) -> dict[Entry, Sparkline]:
    """Return the line of each entry whose model was attacked at two eps at least; randomized defenses and entries
    without a number have none."""
    grouped: dict[object, list[Entry]] = defaultdict(list)
    for board in boards:
        for entry in board.entries:
            if not (entry.threat.unbounded or entry.expected or entry.bounded or not entry.ended):
                box = entry.threat.low, entry.threat.high
                grouped[entry.data, entry.threat.norm, box, entry.victim].append(entry)
    found: dict[Entry, Sparkline] = {}
    for entries in grouped.values():
        ordered = sorted(entries, key=lambda entry: entry.threat.radius)
        if len(ordered) > 1:
            found |= {entry: _line(entry, ordered) for entry in ordered}
    return found


def _line(entry: Entry, ordered: Sequence[Entry]) -> Sparkline:
    end = ordered[-1].threat.radius
    clean = ordered[0].clean_accuracy or 0.0
    points = [(0.0, clean), *((each.threat.radius, each.accuracy) for each in ordered)]
    places = [_place(eps / end, share) for eps, share in points]
    said = ", ".join(f"{100 * each.accuracy:.1f} at ε {each.eps}" for each in ordered)
    line = "M" + "L".join(f"{x} {y}" for x, y in places)
    return Sparkline(line, _place(entry.threat.radius / end, entry.accuracy), f"clean {100 * clean:.1f}, {said}")


def _place(across: float, share: float) -> tuple[str, str]:
    return number(2 + (WIDTH - 4) * across), number(HEIGHT - 2 - (HEIGHT - 4) * share)

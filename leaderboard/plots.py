"""The plot of a board: clean accuracy against worst-case robust accuracy, with the Pareto front."""

from collections.abc import Sequence

from gauntlet.errors import printable
from gauntlet.leaderboard.chart import Axis, Chart, Line, Mark
from gauntlet.leaderboard.entry import Board, Entry
from gauntlet.leaderboard.formatting import address
from gauntlet.leaderboard.plot_labels import positions, shortened
from gauntlet.metrics.ranking import pareto_front

LABELLED = 16
"""Above this number of entries only the front is labelled; the rest speaks when pointed at."""


def tradeoff(board: Board) -> Chart:
    """Return the chart of a board: a mark for each entry of which something is known, those without an interval
    unranked."""
    known = [entry for entry in board.entries if not entry.unknown]
    ranked = [entry for entry in known if entry.rank is not None]
    best = [ranked[i] for i in pareto_front([_place(entry) for entry in ranked])]
    shown = [entry for entry in known if len(known) <= LABELLED or entry in best]
    x, y = _axes(known)
    shares = [(x.share(clean), y.share(robust)) for clean, robust in map(_place, shown)]
    bars = [(y.share(low), y.share(high)) for low, high in (_span(e) or (_place(e)[1],) * 2 for e in shown)]
    sides = positions(shares, [shortened(entry.defense) for entry in shown], bars)
    beside = dict(zip(shown, sides, strict=True))
    front = (Line("Pareto front", _corners([_place(entry) for entry in best]), "front"),) if len(best) > 1 else ()
    return Chart(
        "Clean accuracy against worst-case robust accuracy",
        x,
        y,
        front,
        tuple(_mark(entry, beside.get(entry, "")) for entry in sorted(known, key=lambda entry: entry.rank is not None)),
    )


def _mark(entry: Entry, side: str) -> Mark:
    clean, robust = _place(entry)
    low, high = (100 * end for end in entry.interval)
    interval = f"{low:.1f}–{high:.1f}" if entry.rank else "not ranked"
    said = [printable(entry.defense), *([printable(entry.model)] if entry.model else [])]
    return Mark(
        clean,
        robust,
        (*said, f"clean {clean:.1f} %", f"robust {robust:.1f} % ({interval})"),
        f"entries/{address(entry)}.html",
        _span(entry),
        printable(shortened(entry.defense)) if side else "",
        side or "middle right",
    )


def _place(entry: Entry) -> tuple[float, float]:
    """Return the clean and worst-case robust accuracy in percent; samples with missing records count as robust for the
    place.
    """
    return round(100 * (entry.clean_accuracy or 0.0), 3), round(100 * entry.accuracy, 3)


def _span(entry: Entry) -> tuple[float, float] | None:
    """Return the ends of an entry's interval in percent; None where it has no rank."""
    low, high = (round(100 * end, 3) for end in entry.interval)
    return (low, high) if entry.rank else None


def _corners(front: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the steps through a front of rising x and falling y: what lies below and left of them is beaten."""
    out = [front[0]]
    for x, y in front[1:]:
        out += [(out[-1][0], y), (x, y)]
    return out


def _axes(entries: Sequence[Entry]) -> tuple[Axis, Axis]:
    x = [_place(entry)[0] for entry in entries]
    y = [_place(entry)[1] for entry in entries]
    y += [end for entry in entries for end in _span(entry) or ()]
    (left, right), (low, high) = _range(x), _range(y)
    return Axis("clean accuracy", left, right, " %"), Axis("worst-case robust accuracy", low, high, " %")


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the span of the values with room for labels: at least ten points, hardly more than 0 to 100 %."""
    low, high = min(values), max(values)
    room = max(0.14 * (high - low), (10 - (high - low)) / 2, 1.5)
    beyond = 0.06 * (high - low + 2 * room)  # less than a tick, so that no number outside 0 to 100 % is shown
    return round(max(-beyond, low - room), 3), round(min(100 + beyond, high + room), 3)

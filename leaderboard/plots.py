"""The plot of a board: clean accuracy against worst-case robust accuracy, with the Pareto front.

A figure is plain JSON for plotly.js. Colours come from the page, so that the plot follows light and dark: a trace says
in `meta` which role it plays.
"""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from gauntlet.leaderboard.entry import Board, Entry
from gauntlet.leaderboard.formatting import address
from gauntlet.leaderboard.plot_labels import positions, shortened
from gauntlet.leaderboard.robustness_curve_plot import plain
from gauntlet.metrics.ranking import pareto_front

LABELLED = 16
"""Above this number of entries only the front is labelled; the rest speaks when pointed at."""


def figure(board: Board) -> dict[str, Any]:
    """Return the figure of a board. The `customdata` of a point is the address of its entry's page."""
    known = [entry for entry in board.entries if not entry.unknown]
    ranked = [entry for entry in known if entry.rank is not None]
    unranked = [entry for entry in known if entry.rank is None]
    best = [ranked[i] for i in pareto_front([_place(entry) for entry in ranked])]
    shown = [entry for entry in known if len(known) <= LABELLED or entry in best]
    layout = _layout(known)
    spans = [layout[name]["range"] for name in ("xaxis", "yaxis")]
    shares = [_shares(_place(entry), spans) for entry in shown]
    bars = [_bar(entry, spans[1]) for entry in shown]
    sides = positions(shares, [shortened(entry.defense) for entry in shown], bars)
    labels = {
        address(entry): (plain(shortened(entry.defense)), side)
        for entry, side in zip(shown, sides, strict=True)
        if side
    }
    traces = []
    if len(best) > 1:
        line = {"shape": "vh", "width": 1.5}
        x, y = ([_place(entry)[axis] for entry in best] for axis in (0, 1))
        traces.append(
            go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", name="Pareto front", meta="front")
        )
    traces += [_points(role, e, labels) for role, e in (("ranked", ranked), ("unranked", unranked)) if e]
    result: dict[str, Any] = go.Figure(traces, layout).to_plotly_json()
    return result


def _points(role: str, entries: list[Entry], labels: dict[str, tuple[str, str]]) -> go.Scatter:
    places = [_place(entry) for entry in entries]
    ends = [[100 * end for end in entry.interval] for entry in entries]
    texts = [labels.get(address(entry), ("", "middle right")) for entry in entries]
    certain = role == "ranked"
    return go.Scatter(
        x=[x for x, _ in places],
        y=[y for _, y in places],
        mode="markers+text",
        name="ranked" if certain else "not ranked (at most)",
        meta=role,
        text=[text for text, _ in texts],
        textposition=[side for _, side in texts],
        cliponaxis=False,
        customdata=[f"entries/{address(entry)}.html" for entry in entries],
        hovertext=[_hover(entry) for entry in entries],
        hoverinfo="text",
        marker={"size": 9, "symbol": "circle" if certain else "circle-open"},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [round(high - y, 3) for (_, high), (_, y) in zip(ends, places, strict=True)],
            "arrayminus": [round(y - low, 3) for (low, _), (_, y) in zip(ends, places, strict=True)],
            "width": 0,
            "thickness": 1,
            "visible": certain,
        },
    )


def _place(entry: Entry) -> tuple[float, float]:
    """Return the clean and worst-case robust accuracy in percent; samples with missing records count as robust for the
    place.
    """
    return round(100 * (entry.clean_accuracy or 0.0), 3), round(100 * entry.accuracy, 3)


def _bar(entry: Entry, span: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an entry's error bar, as shares of the height of the plot."""
    place = _place(entry)[1]
    ends = [100 * end for end in entry.interval] if entry.rank else [place, place]
    low, high = ((end - span[0]) / (span[1] - span[0]) for end in ends)
    return low, high


def _hover(entry: Entry) -> str:
    clean, robust = _place(entry)
    low, high = (100 * end for end in entry.interval)
    interval = f"{low:.1f}–{high:.1f}" if entry.rank else "not ranked"
    model = f"<br>{plain(entry.model)}" if entry.model else ""
    return f"<b>{plain(entry.defense)}</b>{model}<br>clean {clean:.1f}<br>robust {robust:.1f} ({interval})"


def _layout(entries: Sequence[Entry]) -> dict[str, Any]:
    x = [_place(entry)[0] for entry in entries]
    y = [_place(entry)[1] for entry in entries]
    y += [100 * end for entry in entries if entry.rank for end in entry.interval]
    axis = {"ticksuffix": " %", "zeroline": False, "showline": True, "ticks": "outside"}
    return {
        "hovermode": "closest",
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 64, "r": 24, "t": 36, "b": 52},
        "xaxis": axis | {"title": {"text": "clean accuracy"}, "range": _range(x)},
        "yaxis": axis | {"title": {"text": "worst-case robust accuracy"}, "range": _range(y)},
    }


def _shares(place: tuple[float, float], spans: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return a place as shares of the width and height of the plot."""
    x, y = ((value - low) / (high - low) for value, (low, high) in zip(place, spans, strict=True))
    return x, y


def _range(values: Sequence[float]) -> list[float]:
    """Return the span of the values with room for labels: at least ten points, hardly more than 0 to 100 %."""
    low, high = min(values), max(values)
    room = max(0.14 * (high - low), (10 - (high - low)) / 2, 1.5)
    beyond = 0.06 * (high - low + 2 * room)  # less than a tick, so that no number outside 0 to 100 % is shown
    return [round(max(-beyond, low - room), 3), round(min(100 + beyond, high + room), 3)]

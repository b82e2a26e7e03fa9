"""Figures of the leaderboard: `gauntlet plot runs --kind tradeoff --out figure.pdf`.

Where several tables fit a kind, each becomes a file of its own.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gauntlet.commands.board_input import RunSelection, add_arguments
from gauntlet.commands.figure import COLORS, Drawing, check_ending, line, plain, save
from gauntlet.errors import UserError
from gauntlet.leaderboard.certificates import Claims
from gauntlet.leaderboard.certified_bracket import BracketCurve, bracket, bracket_curves
from gauntlet.leaderboard.entry import Board, Entry
from gauntlet.leaderboard.plot_labels import merged, positions, shortened
from gauntlet.metrics.bracket import Bracket
from gauntlet.metrics.curve_steps import query_steps
from gauntlet.metrics.ranking import pareto_front
from gauntlet.metrics.rejection import Rejection
from gauntlet.metrics.transfer_matrix import collect

FATES = {"proven": "#009E73", "open": "#dddddd", "broken": "#0072B2"}
"""Of samples: they differ in lightness too."""


def tradeoff(boards: Sequence[Board], runs: RunSelection) -> Iterator[Drawing]:
    """Yield clean against worst-case robust accuracy of each table, with intervals and the Pareto front."""
    for board in boards:
        entries = [entry for entry in board.entries if entry.rank is not None]
        if len(entries) > 1:
            yield Drawing(f"{board.data.name} {board.threat.norm} {board.eps}", partial(_points, entries=entries))


def _points(axes: Any, entries: Sequence[Entry]) -> None:
    x = [100 * (entry.clean_accuracy or 0.0) for entry in entries]
    y = [100 * entry.accuracy for entry in entries]
    ends = [[100 * end for end in entry.interval] for entry in entries]
    front = pareto_front(list(zip(x, y, strict=True)))
    axes.plot(
        [x[i] for i in front], [y[i] for i in front], color="#999999", linewidth=0.8, drawstyle="steps-pre", zorder=1
    )
    error = [
        [v - low for v, (low, _) in zip(y, ends, strict=True)],
        [high - v for v, (_, high) in zip(y, ends, strict=True)],
    ]
    axes.errorbar(x, y, yerr=error, fmt="o", markersize=3.5, elinewidth=0.7, color=COLORS[0], zorder=2)
    axes.margins(0.12)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    shares = [((a - left) / (right - left), (b - bottom) / (top - bottom)) for a, b in zip(x, y, strict=True)]
    bars = [((low - bottom) / (top - bottom), (high - bottom) / (top - bottom)) for low, high in ends]
    names = merged(shares, [shortened(entry.defense) for entry in entries])
    for name, at, side in zip(names, zip(x, y, strict=True), positions(shares, names, bars), strict=True):
        if side:
            vertical, horizontal = side.split()
            offset = {"left": -4, "right": 4}[horizontal], {"top": 4, "middle": 0, "bottom": -4}[vertical]
            axes.annotate(
                "\n".join(map(plain, name.split("\n"))),
                at,
                xytext=offset,
                textcoords="offset points",
                fontsize=6,
                ha={"left": "right", "right": "left"}[horizontal],
                va={"top": "bottom", "middle": "center", "bottom": "top"}[vertical],
            )
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set(xlabel="clean accuracy (%)", ylabel="robust accuracy (%)")


def curve(boards: Sequence[Board], runs: RunSelection) -> Iterator[Drawing]:
    """Yield robust accuracy over eps of each model that was attacked without a bound."""
    for board in boards:
        found = [(entry, next((c for c in entry.curves if c.best), None)) for entry in board.entries]
        lines = [(entry.defense, each) for entry, each in found if each is not None and board.threat.unbounded]
        if lines:

            def draw(axes: Any, lines: Any = lines) -> None:
                for number, (name, each) in enumerate(lines):
                    line(axes, number, each.eps, [100 * share for share in each.accuracy], name)
                axes.set(xlabel="$\\epsilon$", ylabel="robust accuracy (%)", ylim=(-2, 102))

            name = board.eps if board.threat.target else ""
            yield Drawing(f"{board.data.name} {board.threat.norm} {name}".strip(), draw)


def queries(boards: Sequence[Board], runs: RunSelection) -> Iterator[Drawing]:
    """Yield success against queries of each entry that was attacked without gradients."""
    for board in boards:
        for entry in board.entries:
            if entry.queries:

                def draw(axes: Any, entry: Entry = entry) -> None:
                    for number, each in enumerate(entry.queries):
                        steps = query_steps(each.curve)
                        line(axes, number, [x for x, _ in steps], [100 * y for _, y in steps], each.name)
                    axes.set(xlabel="queries", ylabel="success (%)", ylim=(-2, 102), xscale="log")

                yield Drawing(f"{board.data.name} {entry.defense}", draw)


def risk_coverage(boards: Sequence[Board], runs: RunSelection) -> Iterator[Drawing]:
    """Yield wrong answers against coverage on clean images of each defense that rejects, with a dot at its threshold.

    The entries of one data set together; a defense that stands in several tables once.
    """
    grouped: dict[str, dict[str, Rejection]] = {}
    for board in boards:
        for entry in board.entries:
            if entry.rejection is not None and len(entry.rejection.clean):
                grouped.setdefault(board.data.name, {}).setdefault(entry.defense, entry.rejection)
    for data, found in sorted(grouped.items()):

        def draw(axes: Any, found: Any = found) -> None:
            for number, (name, each) in enumerate(found.items()):
                points = [(100 * coverage, 100 * risk) for coverage, risk in each.risk_coverage()]
                line(axes, number, [x for x, _ in points], [y for _, y in points], name)
                answered = each.clean >= 0
                wrong = 100 * float((~each.right[answered]).mean()) if answered.any() else 0.0
                axes.plot(100 * float(answered.mean()), wrong, "o", markersize=3.5, color=COLORS[number % len(COLORS)])
            axes.set(xlabel="clean images answered (%)", ylabel="wrong among them (%)", xlim=(0, 102))

        yield Drawing(data, draw)


def transfer(boards: Sequence[Board], runs: RunSelection) -> Iterator[Drawing]:
    """Yield the matrix of transfer success rates of each data set and threat."""
    for (data, _, _, threat), targets in collect(list(runs.folders)).items():
        sources = {identity: pair.stage for target in targets for identity, pair in target.pairs.items()}
        rows = sorted(sources, key=lambda identity: (sources[identity], identity))

        def draw(axes: Any, rows: Any = rows, sources: Any = sources, targets: Any = targets) -> None:
            nan = float("nan")
            rates = [[100 * t.pairs[row].rate if row in t.pairs else nan for t in targets] for row in rows]
            axes.imshow(rates, vmin=0, vmax=100, cmap="cividis", aspect="auto")
            axes.set_xticks(range(len(targets)), [plain(target.name) for target in targets], rotation=45, ha="right")
            axes.set_yticks(range(len(rows)), [plain(sources[row]) for row in rows])
            axes.grid(visible=False)
            for i, row in enumerate(rates):
                for j, rate in enumerate(row):
                    ink = "white" if not rate > 60 else "black"
                    axes.text(
                        j, i, "–" if rate != rate else f"{rate:.0f}", ha="center", va="center", fontsize=6, color=ink
                    )

        yield Drawing(f"{data} {threat}", draw)


def certificates(boards: Sequence[Board], runs: RunSelection) -> Iterator[Drawing]:
    """Yield certified accuracy over the radius, the runs of one data set and norm together."""
    grouped: dict[tuple[Any, str], list[Claims]] = {}
    for claims in runs.claims()[0]:
        if claims.tabled and claims.total.graded:
            grouped.setdefault((claims.data, claims.norm), []).append(claims)
    for (data, norm), found in sorted(grouped.items()):

        def draw(axes: Any, found: Any = found) -> None:
            for number, claims in enumerate(found):
                radii = [radius for radius, _, _ in claims.curve]
                shares = [100 * count / claims.total.samples for _, count, _ in claims.curve]
                line(axes, number, radii, shares, f"{claims.defense}, {claims.certifier}", "steps-pre")
            axes.set(xlabel="radius", ylabel="certified accuracy (%)", ylim=(-2, 102))

        yield Drawing(f"{data.name} {norm}", draw)


def brackets(boards: Sequence[Board], runs: RunSelection) -> Iterator[Drawing]:
    """Yield what is proven, open and broken of each entry with a certificate, the entries of one table together."""
    judged, _ = runs.certificates()
    for board in boards:
        known = [(entry, bracket(entry, judged)) for entry in board.entries]
        found = [(entry.defense, each) for entry, each in known if each is not None]
        if found:
            yield Drawing(f"{board.data.name} {board.threat.norm} {board.eps}", partial(_bars, found=found))
    for curve in bracket_curves(boards, judged):
        yield Drawing(f"{curve.data.name} {curve.norm} {curve.defense}", partial(_sides, curve=curve))


def _sides(axes: Any, curve: BracketCurve) -> None:
    for number, (name, points) in enumerate(curve.sides().items()):
        line(axes, number, [each[0] for each in points], [each[1] for each in points], name, "default")
    axes.set(xlabel=r"$\epsilon$", ylabel="samples (%)", ylim=(-2, 102))


def _bars(axes: Any, found: Sequence[tuple[str, Bracket]]) -> None:
    for at, (_, each) in enumerate(found):
        start = 0.0
        for name, count in (("proven", each.proven), ("open", each.open), ("broken", each.broken)):
            width = 100 * count / each.samples
            axes.barh(at, width, left=start, height=0.6, color=FATES[name], label=name if not at else None)
            start += width
    axes.set_yticks(range(len(found)), [plain(shortened(name)) for name, _ in found])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set(xlabel="samples (%)", xlim=(0, 100))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3)


KINDS: dict[str, Callable[[Sequence[Board], RunSelection], Iterator[Drawing]]] = {
    "tradeoff": tradeoff,
    "curve": curve,
    "queries": queries,
    "risk_coverage": risk_coverage,
    "transfer": transfer,
    "certified": certificates,
    "bracket": brackets,
}


def main(arguments: list[str] | None = None) -> int:
    """Write figures of the runs below the given folders; 1 where they hold nothing of the kind."""
    parser = argparse.ArgumentParser(prog="gauntlet plot", description="Figures of the leaderboard for papers.")
    add_arguments(parser)
    parser.add_argument("--kind", choices=KINDS, default="tradeoff")
    parser.add_argument("--out", type=Path, default=Path("figure.pdf"), metavar="FILE", help=".pdf, .svg or .png")
    options = parser.parse_args(arguments)
    try:
        check_ending(options.out)
        runs = RunSelection.of(options)
        drawings = list(KINDS[options.kind](runs.tables(), runs))
        if not drawings:
            raise UserError(f"there is nothing below {runs} that a plot of the kind {options.kind} could show")
        written = save(drawings, options.out)
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1
    for path in written:
        sys.stdout.write(f"plot: {path}\n")
    return 0

"""The page of a table on which its entries are compared: every pair, and which samples are lost by whom."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment

from gauntlet.leaderboard import formatting
from gauntlet.leaderboard.comparison import Comparison, compared, unfit
from gauntlet.leaderboard.entry import Board, Entry
from gauntlet.leaderboard.site_writer import Site
from gauntlet.metrics.paired_comparison import PairComparison

MOST = 24
"""Entries of one page, the first of the table: 276 pairs."""

DRAWN = 3
"""Entries whose overlap is drawn without a choice; each one more doubles the lines."""

CHOSEN = 5
"""The most that can be chosen."""

LEVEL = 0.05


@dataclass(frozen=True)
class OverlapLine:
    """Samples that exactly these entries lose; members: positions."""

    members: tuple[int, ...]
    count: int


def compare_address(board: Board) -> str:
    """Return the place of a table's page of comparisons; empty where fewer than two entries can be compared."""
    return f"compare/{formatting.anchor(board)}.html" if len(_fit(board)) > 1 else ""


def write_comparisons(site: Site, env: Environment, boards: Sequence[Board]) -> None:
    """Write a page for every table of which two entries can be compared."""
    for board in boards:
        address = compare_address(board)
        if not address:
            continue
        fit = _fit(board)
        found = compared(fit[:MOST])
        page = env.get_template("compare.html.j2").render(
            board=board,
            found=found,
            pairs=list(zip(found.pairs, found.agreement, strict=True)),
            matrix=_matrix(found),
            overlap=overlap_of(found, range(min(DRAWN, len(found.entries)))),
            patterns=_patterns(found),
            left=[(entry, unfit(entry)) for entry in board.entries if unfit(entry)],
            beyond=fit[MOST:],
            level=LEVEL,
            drawn=DRAWN,
            most=CHOSEN,
            root="../",
        )
        site.write(address, page)


def overlap_of(found: Comparison, chosen: Sequence[int]) -> list[OverlapLine]:
    """Return the samples that exactly some of the chosen entries lose, fewer entries first."""
    among, counts = set(chosen), dict[tuple[int, ...], int]()
    for members, count in found.overlap.items():
        kept = tuple(each for each in members if each in among)
        if kept:
            counts[kept] = counts.get(kept, 0) + count
    return [OverlapLine(key, counts[key]) for key in sorted(counts, key=lambda key: (len(key), key))]


def _fit(board: Board) -> list[Entry]:
    return [entry for entry in board.entries if not unfit(entry)]


def _matrix(found: Comparison) -> list[list[PairComparison | None]]:
    """Return [row][column] -> the row's entry against the column's."""
    count = len(found.entries)
    out: list[list[PairComparison | None]] = [[None] * count for _ in range(count)]
    for pair in found.pairs:
        low, high = pair.interval
        out[pair.first][pair.second] = pair
        out[pair.second][pair.first] = PairComparison(
            pair.second, pair.first, pair.second_only, pair.first_only, -pair.difference, (-high, -low), pair.p
        )
    return out


def _patterns(found: Comparison) -> str:
    """Return the overlap for the script: [[bits of the entries, samples], ...]."""
    return json.dumps([[sum(1 << each for each in members), count] for members, count in found.overlap.items()])

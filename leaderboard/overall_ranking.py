"""Overall rankings: the same systems over several tables, by several rules, and where the rules disagree.

A table is a data set with its samples and a threat; inside one, entries are ranked by robust accuracy and nothing is
voted. Tables of targeted attacks do not count: their accuracies are another measure. Across tables the default is the
mean win rate: it needs no common unit, takes tables that a system lacks as unknown, and equals Borda's count with
mid-ranks on a whole table. Missing results are never filled.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gauntlet.leaderboard.entry import Board, Entry
from gauntlet.metrics.kemeny import kemeny, robust_consensus
from gauntlet.metrics.nash_averaging import nash_average
from gauntlet.metrics.rank_aggregation import (
    MissingScores,
    baldwin,
    borda,
    condorcet,
    copeland,
    groups_of,
    leave_one_out,
    mean_win_rate,
    minimax,
    schulze,
    threshold,
    wins,
)

Floats = NDArray[np.float64]

COVERAGE = 0.6
"""Share of the tables that a system must stand in to be ranked by the default rule."""

DRAWS = 1000
"""Bootstrap tables; their seed is fixed, so that equal evidence gives equal intervals."""

THETA = 0.1
"""Pairs whose support is within this of one half are tied in the robust consensus."""


@dataclass(frozen=True)
class RuleResult:
    """The order of one rule: groups of tied systems, best first, or why it is not defined here."""

    name: str
    about: str
    groups: tuple[tuple[int, ...], ...]
    undefined: str = ""

    def place(self, system: int) -> int | None:
        """Return the first place of the group of a system; None where it has none."""
        before = 0
        for group in self.groups:
            if system in group:
                return before + 1
            before += len(group)
        return None


@dataclass(frozen=True, eq=False)
class OverallRanking:
    """Systems over tables. `scores` is [systems, tables], in [0, 1], NaN where a system has no ranked entry."""

    systems: tuple[str, ...]
    tables: tuple[str, ...]
    scores: Floats
    win_rate: Floats
    covered: tuple[int, ...]  # tables of each system
    ranked: tuple[bool, ...]  # enough tables for a rank
    rules: tuple[RuleResult, ...]
    bootstrap: tuple[tuple[int, int], ...]  # 95 % interval of the rank by win rate, images drawn again
    without_a_table: tuple[tuple[int, int], ...]  # ranks by win rate, each table left out in turn
    without_a_system: tuple[tuple[int, int], ...]
    dominant: int | None  # beats every other system

    @property
    def order(self) -> list[int]:
        """Return the systems, best win rate first, those without a rank last."""
        rate = np.where(np.isnan(self.win_rate), -1.0, self.win_rate)
        return sorted(range(len(self.systems)), key=lambda i: (not self.ranked[i], -rate[i], self.systems[i]))

    @property
    def disagreement(self) -> list[tuple[int, int]]:
        """Return pairs of ranked systems that one rule puts in the one order and another in the other."""
        places = [[rule.place(i) for i in range(len(self.systems))] for rule in self.rules if not rule.undefined]
        pairs = []
        for i in range(len(self.systems)):
            for j in range(i + 1, len(self.systems)):
                known = [(p[i], p[j]) for p in places]
                signs = {np.sign(a - b) for a, b in known if a is not None and b is not None}
                if {-1, 1} <= signs:
                    pairs.append((i, j))
        return pairs


def overall(boards: Sequence[Board]) -> OverallRanking | None:
    """Rank the systems of several tables; None where fewer than two tables hold two common systems."""
    named = [(board, _named(board)) for board in boards if not (board.threat.unbounded or board.threat.target)]
    counted = Counter(name for _, entries in named for name in entries)
    systems = sorted(name for name, times in counted.items() if times > 1)
    used = [(board, {n: e for n, e in entries.items() if n in systems}) for board, entries in named]
    used = [(board, entries) for board, entries in used if len(entries) > 1]
    systems = sorted({name for _, entries in used for name in entries})
    if len(used) < 2 or len(systems) < 2:
        return None
    cells = [[entries.get(name) for _, entries in used] for name in systems]
    scores = np.array([[np.nan if entry is None else entry.accuracy for entry in row] for row in cells])
    covered = (~np.isnan(scores)).sum(1)
    ranked = covered >= COVERAGE * len(used)
    return OverallRanking(
        systems=tuple(systems),
        tables=tuple(f"{board.data.name} {board.threat.norm} {board.eps}" for board, _ in used),
        scores=scores,
        win_rate=mean_win_rate(scores),
        covered=tuple(int(count) for count in covered),
        ranked=tuple(bool(each) for each in ranked),
        rules=tuple(_rules(scores, ranked)),
        bootstrap=_bootstrap(cells, scores, ranked),
        without_a_table=tuple(leave_one_out(scores, mean_win_rate, 1)),
        without_a_system=tuple(leave_one_out(scores, mean_win_rate, 0)),
        dominant=condorcet(scores),
    )


def _named(board: Board) -> dict[str, Entry]:
    """Return the ranked entries by name; equal names are told apart by the beginning of the victim's hash."""
    ranked = [entry for entry in board.entries if entry.rank]
    times = Counter((entry.defense, entry.model) for entry in ranked)
    names = {}
    for entry in ranked:
        plain = f"{entry.defense} · {entry.model}"
        names[plain if times[entry.defense, entry.model] == 1 else f"{plain} · {entry.victim[:6]}"] = entry
    return names


def _rules(scores: Floats, ranked: NDArray[np.bool_]) -> list[RuleResult]:
    """Return the order of every rule, over the systems that have a rank."""
    keep = np.flatnonzero(ranked)
    part = scores[keep]

    def by(rule: Callable[[Floats], Floats]) -> Callable[[Floats], list[list[int]]]:
        return lambda scores: groups_of(rule(scores))

    orders: list[tuple[str, str, Callable[[Floats], list[list[int]]]]] = [
        ("mean win rate", "share of the other systems beaten, averaged over its tables (default)", by(mean_win_rate)),
        ("Copeland", "systems beaten in most common tables, minus those it loses to", by(copeland)),
        ("minimax", "smallest worst defeat", by(minimax)),
        ("Schulze", "strongest paths of majorities", schulze),
        ("Kemeny", "fewest contradicted wins; systems in one group differ between optima", _kemeny),
        ("robust consensus", f"Kemeny, with pairs within {THETA:g} of one half tied", _consensus),
        ("Borda", "systems beaten, summed over tables", by(borda)),
        ("Baldwin", "the smallest Borda count drops out, again and again", baldwin),
        ("threshold", "fewest last places, then fewest next to last", _threshold),
        ("Nash averaging", "skill against the hardest mixture of tables", _nash),
        ("mean accuracy", "mean robust accuracy", _mean),
    ]
    results = []
    for name, about, rule in orders:
        try:
            groups = rule(part) if len(part) else []
            results.append(RuleResult(name, about, tuple(tuple(int(keep[i]) for i in group) for group in groups)))
        except ValueError as cause:
            results.append(RuleResult(name, about, (), str(cause)))
    return results


def _kemeny(scores: Floats) -> list[list[int]]:
    return kemeny(wins(scores)).groups


def _consensus(scores: Floats) -> list[list[int]]:
    return robust_consensus(wins(scores), THETA)


def _threshold(scores: Floats) -> list[list[int]]:
    first = threshold(scores)
    rest = [i for i in range(len(scores)) if i not in first]
    return [first, *([[rest[i] for i in group] for group in _threshold(scores[rest])] if rest else [])]


def _nash(scores: Floats) -> list[list[int]]:
    return groups_of(nash_average(scores).skill.round(6))


def _mean(scores: Floats) -> list[list[int]]:
    if np.isnan(scores).any():
        raise MissingScores("a mean over different tables compares different tasks")
    return groups_of(scores.mean(1))


def _bootstrap(
    cells: Sequence[Sequence[Entry | None]], scores: Floats, ranked: NDArray[np.bool_]
) -> tuple[tuple[int, int], ...]:
    """Return the 95 % interval of each rank by win rate when the images of each table are drawn again, jointly for all
    of its systems; an expectation of a randomized defense is drawn from a normal law of its interval's width.
    """
    rng = np.random.default_rng(0)
    drawn = np.stack([_redraw([row[t] for row in cells], scores[:, t], rng) for t in range(scores.shape[1])], axis=2)
    keep = np.flatnonzero(ranked)
    places = np.empty((DRAWS, len(keep)))
    for draw in range(DRAWS):
        rate = mean_win_rate(drawn[draw][keep])
        places[draw] = 1 + (rate[None, :] > rate[:, None] + 1e-12).sum(1)
    found = [(0, 0)] * len(scores)
    if len(keep):
        low, high = (
            np.quantile(places, 0.025, axis=0, method="lower"),
            np.quantile(places, 0.975, axis=0, method="higher"),
        )
        for at, i in enumerate(keep):
            found[int(i)] = int(low[at]), int(high[at])
    return tuple(found)


def _redraw(entries: Sequence[Entry | None], scores: Floats, rng: np.random.Generator) -> Floats:
    """Return accuracies on images drawn again, [DRAWS, systems]."""
    out = np.full((DRAWS, len(entries)), np.nan)
    sets = {i: entry for i, entry in enumerate(entries) if entry is not None and entry.expected is None}
    if sets:
        n = next(iter(sets.values())).n
        ids = np.unique(np.concatenate([entry.robust_ids for entry in sets.values()]))
        kept = np.stack([np.isin(ids, entry.robust_ids) for entry in sets.values()])
        patterns, times = np.unique(kept, axis=1, return_counts=True)  # alike images are drawn together
        share = np.append(times, n - len(ids)) / n
        draws = rng.multinomial(n, share, DRAWS)[:, :-1]
        out[:, list(sets)] = draws @ patterns.T.astype(np.float64) / n
    for i, entry in enumerate(entries):
        if entry is not None and entry.expected is not None:
            low, high = entry.interval
            out[:, i] = rng.normal(scores[i], (high - low) / 3.92, DRAWS)
    return out

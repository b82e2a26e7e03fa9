"""The page of overall rankings: every rule's order side by side, and the pairs on which they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment

from gauntlet.leaderboard.entry import Board
from gauntlet.leaderboard.site_writer import Site

if TYPE_CHECKING:
    from gauntlet.leaderboard.overall_ranking import OverallRanking

PAIRS = 30
"""Pairs on which rules disagree that the page spells out."""

ADDRESS = "rankings.html"


@dataclass(frozen=True)
class Dispute:
    """Two systems, the rules that put the first before the second, and those that put it behind."""

    first: str
    second: str
    before: tuple[str, ...]
    behind: tuple[str, ...]


def write_rankings(site: Site, env: Environment, boards: Sequence[Board]) -> str:
    """Write the page; return its place, empty where no two tables share two ranked systems."""
    if len(boards) < 2:
        return ""
    from gauntlet.leaderboard.overall_ranking import COVERAGE, overall  # scipy.stats is slow to import

    found = overall(boards)
    if found is None:
        return ""
    every = disputes(found)
    defined = [rule for rule in found.rules if not rule.undefined]
    page = env.get_template("rankings.html.j2").render(
        found=found,
        defined=defined,
        undefined=[rule for rule in found.rules if rule.undefined],
        places={i: [rule.place(i) for rule in defined] for i in range(len(found.systems))},
        default={i: found.rules[0].place(i) for i in range(len(found.systems))},
        disputes=every[:PAIRS],
        more=len(every) - len(every[:PAIRS]),
        coverage=COVERAGE,
        root="",
    )
    site.write(ADDRESS, page)
    return ADDRESS


def disputes(found: OverallRanking) -> list[Dispute]:
    """Return the pairs on which the rules disagree, the system that the default rule puts first first."""
    at = {system: place for place, system in enumerate(found.order)}
    pairs = sorted(tuple(sorted(pair, key=lambda system: at[system])) for pair in found.disagreement)
    out = []
    for first, second in sorted(pairs, key=lambda pair: (at[pair[0]], at[pair[1]])):
        sides: dict[bool, list[str]] = {True: [], False: []}
        for rule in found.rules:
            one, other = rule.place(first), rule.place(second)
            if one is not None and other is not None and one != other:
                sides[one < other].append(rule.name)
        out.append(Dispute(found.systems[first], found.systems[second], tuple(sides[True]), tuple(sides[False])))
    return out

"""One document about one system for an auditor: what was tested, how, with which result, and what that does not say.

A system is a defense with its model on a data set; its entries face several threats. A requirement such as
`linf 4/255 >= 60%` is met where the lower end of the 95 % interval reaches it, missed where the upper end does not.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from gauntlet.errors import UserError
from gauntlet.leaderboard.certificates import CertificateVerdict
from gauntlet.leaderboard.class_results import worst_of
from gauntlet.leaderboard.entry import Board, Entry
from gauntlet.leaderboard.entry_card import CardLine, card
from gauntlet.leaderboard.score import EARLY
from gauntlet.metrics.worst_class import WorstClass

REQUIREMENT = re.compile(r"\s*(linf|l2|l1|l0)\s+([0-9./]+)\s*>=\s*([0-9.]+)\s*%\s*")

MET, MISSED, UNDECIDED, UNKNOWN = "met", "not met", "undecided", "not measured"


@dataclass(frozen=True)
class Requirement:
    """A robust accuracy that is asked for under a threat; `text` as it was typed."""

    text: str
    norm: str
    radius: float
    share: float

    @classmethod
    def parse(cls, text: str) -> "Requirement":
        """Return the requirement that a text states.

        Raises:
            UserError: it does not read `NORM EPS >= SHARE%`.
        """
        match = REQUIREMENT.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            radius, share = float(_fraction(match[2])), float(match[3]) / 100
            if not (radius > 0 and 0 < share <= 1):
                raise ValueError
        except (ValueError, ZeroDivisionError):
            raise UserError(
                f"the requirement {text!r} cannot be read; write a norm, an eps and a share, as in 'linf 4/255 >= 60%'"
            ) from None
        return cls(text.strip(), match[1], radius, share)


@dataclass(frozen=True)
class Decision:
    """Whether a requirement is met: met, not met, undecided or not measured, and why."""

    requirement: Requirement
    state: str
    reason: str


@dataclass(frozen=True, eq=False)
class ThreatResult:
    """What was measured against one threat."""

    board: Board
    entry: Entry
    worst: WorstClass | None
    worst_name: str
    broken: int


@dataclass(frozen=True, eq=False)
class SystemReport:
    """All that a document says of one system."""

    title: str
    lead: Mapping[str, Any]  # the manifest of its first run
    results: tuple[ThreatResult, ...]
    card: tuple[CardLine, ...]
    flags: tuple[tuple[str, str, str], ...]  # threat, name, detail
    decisions: tuple[Decision, ...]


def reports(
    boards: Sequence[Board], certificates: Sequence[CertificateVerdict], requirements: Sequence[Requirement]
) -> list[SystemReport]:
    """Return the report of every system on the boards, in the order of their names."""
    every = [entry for board in boards for entry in board.entries]
    grouped: dict[tuple[str, str, str], list[tuple[Board, Entry]]] = {}
    for board in boards:
        for entry in board.entries:
            grouped.setdefault((entry.data.name, entry.defense, entry.model), []).append((board, entry))
    out = []
    for (data, defense, model), pairs in sorted(grouped.items()):
        pairs.sort(key=lambda pair: (pair[0].threat, pair[1].victim))
        results = tuple(_result(board, entry) for board, entry in pairs)
        flags = [
            (f"{board.threat.norm} {board.eps}", flag.name, flag.detail)
            for board, entry in pairs
            for flag in entry.flags
        ]
        out.append(
            SystemReport(
                title=f"{defense} · {model} on {data}",
                lead=pairs[0][1].runs[0].run.manifest,
                results=results,
                card=card(pairs[0][1], every, certificates),
                flags=tuple(dict.fromkeys(flags)),
                decisions=tuple(decide(requirement, results) for requirement in requirements),
            )
        )
    return out


def decide(requirement: Requirement, results: Sequence[ThreatResult]) -> Decision:
    """Return whether the results meet a requirement; the lowest of several entries under its threat counts."""
    found = [
        each.entry
        for each in results
        if each.board.threat.norm == requirement.norm
        and each.board.threat.radius == requirement.radius
        and not each.board.threat.target
    ]
    if not found:
        return Decision(requirement, UNKNOWN, "no run attacked the system under this threat")
    entry = min(found, key=lambda each: each.interval)
    low, high = entry.interval
    measured = f"{entry.accuracy:.1%}, 95 % interval {low:.1%} to {high:.1%}, on {entry.n:,} samples"
    lacks = [why for why in entry.reasons if why != EARLY]  # its interval holds however often one looked
    if lacks:
        return Decision(requirement, UNDECIDED, f"this evidence does not decide it: {'; '.join(lacks)}")
    if high < requirement.share:
        return Decision(requirement, MISSED, measured)
    if low < requirement.share:
        return Decision(requirement, UNDECIDED, f"{measured}: it holds the required share; more samples may decide")
    if entry.flags:
        names = ", ".join(sorted({flag.name for flag in entry.flags}))
        return Decision(requirement, UNDECIDED, f"{measured}, but red flags say that it may be too high: {names}")
    return Decision(requirement, MET, measured)


def _result(board: Board, entry: Entry) -> ThreatResult:
    worst, name = worst_of(entry) or (None, "")
    return ThreatResult(board, entry, worst, name, entry.n - entry.robust - entry.open)


def _fraction(text: str) -> Fraction:
    above, _, below = text.partition("/")
    return Fraction(above) / Fraction(below or "1")

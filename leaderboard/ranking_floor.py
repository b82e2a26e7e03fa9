"""The floor of a table: what must have been run against an entry before it is ranked beside others.

Ranks compare numbers, and a weak attack leaves a high one. So an entry is ranked, and may lie on the Pareto front, only
where a whole run on every declared head holds an attack of the floor, with at least its default effort. What is below
is shown all the same, and what any run broke counts against it.
"""

from dataclasses import replace

from gauntlet.evidence.attack_floor import NORMS, holds_floor
from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.run_metadata import AttackRun, ThreatKey, mapping

FLOORS = ("standard", "verified", "any")
"""Names of the floors that a board may have; verified: the standard one, by a run that a check confirmed."""

WORDS = "gauntlet or AutoAttack on every head, with at least their default effort"


def described(threat: ThreatKey, floor: str) -> str:
    """Return the floor of a table in words; empty where it has none."""
    if floor == "any" or threat.norm not in NORMS or threat.unbounded:
        return ""
    return f"{WORDS}, verified" if floor == "verified" else WORDS


def held_to(entry: Entry, floor: str) -> Entry:
    """Return the entry, with a reason not to rank it where no whole run of its own reaches the floor."""
    words = described(entry.threat, floor)
    asked = [line for line in entry.counted if floor != "verified" or line.verification.state == "verified"]
    if not words or not entry.counted or any(reaches(line.run) for line in asked):
        return entry
    names = ", ".join(sorted({line.run.attack for line in entry.counted}))
    below = f"its attacks ({names}) are below the floor of this table: {words}"
    return replace(entry, reasons=(*entry.reasons, below))


def reaches(run: AttackRun) -> bool:
    """Return whether the attack of a run goes through all that is declared and holds the floor."""
    return run.declared and holds_floor(mapping(run.manifest.get("config")).get("attack"))

"""The floor of a table: what must have been run against an entry before it is ranked beside others.

Ranks compare numbers, and a weak attack leaves a high one. So an entry is ranked, and may lie on the Pareto front, only
where a whole run on every declared head holds an attack of the floor, with at least its default effort. What is below
is shown all the same, and what any run broke counts against it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from gauntlet.evidence.stable_names import place_of
from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.run_metadata import AttackRun, ThreatKey, mapping

FLOORS = ("standard", "verified", "any")
"""Names of the floors that a board may have; verified: the standard one, by a run that a check confirmed."""

NORMS = ("linf", "l2", "l1")
"""Those of the attacks of the floor; tables of other norms have none."""

Effort = Mapping[str, Any]

GAUNTLET: tuple[str, Effort] = (
    "gauntlet.attacks.gauntlet.Gauntlet",
    {"steps": 20, "rounds": 12, "round_steps": 30, "gap": 0.5, "probe": 20, "trial": 500, "queries": 5000},
)
"""Place of the attack, and the least of what its knobs must be; one that is not on record has its default."""

AUTOATTACK: tuple[tuple[str, Effort], ...] = (
    ("gauntlet.attacks.apgd.APGD", {"steps": 100, "loss": "ce"}),
    ("gauntlet.attacks.apgd.APGD", {"steps": 100, "loss": "dlr", "targets": 1}),
    ("gauntlet.attacks.fab.FAB", {"steps": 100, "targets": 1}),
    ("gauntlet.attacks.black_box.square.Square", {"queries": 5000}),
)

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
    """Return whether the attack of a run holds gauntlet, or all parts of AutoAttack, with at least their effort."""
    parts = list(_parts(mapping(mapping(run.manifest.get("config")).get("attack"))))
    return run.declared and (_among(GAUNTLET, parts) or all(_among(each, parts) for each in AUTOATTACK))


def _parts(attack: Effort) -> Iterator[Effort]:
    """Yield the attacks of a suite, or the attack itself."""
    stages = mapping(attack.get("stages"))
    for stage in stages.values():
        yield from _parts(mapping(stage))
    if not stages:
        yield attack


def _among(asked: tuple[str, Effort], parts: Iterable[Effort]) -> bool:
    place, least = asked
    return any(place_of(str(part.get("_target_"))) == place and _as_much(part, least) for part in parts)


def _as_much(part: Effort, least: Effort) -> bool:
    for name, asked in least.items():
        given = part.get(name, asked)
        if isinstance(asked, str) != isinstance(given, str) or (isinstance(asked, str) and given != asked):
            return False
        if not isinstance(asked, str) and not (isinstance(given, int | float) and given >= asked):
            return False
    return True

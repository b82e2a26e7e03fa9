"""The attacks that a rank rests on, and how much of them: what a recorded attack is held to."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gauntlet.evidence.stable_names import place_of

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


def holds_floor(attack: Any) -> bool:
    """Return whether a recorded attack holds gauntlet, or all parts of AutoAttack, with at least their effort.

    attack: its node in a recorded configuration, which somebody else may have written.
    """
    parts = list(_parts(attack)) if isinstance(attack, Mapping) else []
    return _among(GAUNTLET, parts) or all(_among(each, parts) for each in AUTOATTACK)


def _parts(attack: Effort) -> Iterator[Effort]:
    """Yield the attacks of a suite, or the attack itself."""
    stages = attack.get("stages")
    stages = stages if isinstance(stages, Mapping) else {}
    for stage in stages.values():
        yield from _parts(stage) if isinstance(stage, Mapping) else ()
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

"""What certificates prove of an entry, beside what attacks broke: the two sides of its robust accuracy."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gauntlet.leaderboard.certificates import CertificateVerdict, Claims
from gauntlet.leaderboard.entry import Board, Entry
from gauntlet.leaderboard.run_metadata import DataKey
from gauntlet.metrics.bracket import Bracket
from gauntlet.metrics.confidence import wilson


def bracket(entry: Entry, certificates: Sequence[CertificateVerdict]) -> Bracket | None:
    """Return the bracket of an entry at its eps; None where nothing certifies its model there.

    Proofs of several certifiers are put together. Certificates that may fail with some probability are not: their
    probabilities would add up, so that the best single run counts, where it proves more than all proofs.
    """
    if entry.threat.unbounded or entry.threat.target or entry.expected is not None:
        return None
    first = entry.runs[0].run
    victim, box = str(first.manifest.get("bare", entry.victim)), (entry.threat.low, entry.threat.high)
    key = entry.data.name, entry.data.digest, entry.threat.norm, box, victim
    found = [
        each.claims
        for each in certificates
        if (each.claims.data.name, each.claims.data.digest, each.claims.norm, each.claims.box, each.claims.victim)
        == key
        and each.claims.counts
    ]
    sets = {claims: _proven(claims, entry.threat.radius) for claims in found if _asked(claims, entry.threat.radius)}
    proofs = [claims for claims in sets if claims.kind == "sound_det"]
    options = [([claims], ids) for claims, ids in sets.items() if claims.kind != "sound_det"]
    if proofs:
        options.insert(0, (proofs, set().union(*(sets[claims] for claims in proofs))))
    if not options:
        return None
    chosen, ids = max(options, key=lambda option: len(option[1]))
    proven, broken = ids & set(entry.ids.tolist()), set(entry.broken_ids.tolist())
    return Bracket(
        samples=entry.n,
        proven=len(proven),
        broken=len(broken),
        by=", ".join(sorted({claims.certifier for claims in chosen})),
        contradicted=len(proven & broken),
    )


@dataclass(frozen=True)
class BracketCurve:
    """Robust accuracy from both sides over eps, of one model. points: eps, and the bracket there, by rising eps."""

    defense: str
    data: DataKey
    norm: str
    points: tuple[tuple[float, Bracket], ...]

    def sides(self) -> dict[str, list[tuple[float, float, float, float]]]:
        """Return eps, percent, and the ends of its 95 % interval of what nothing broke and of what is proven.

        Robust accuracy falls with eps, so that between two eps what is broken at the lower one and what is proven at
        the higher one still count: these are steps, whose corners have no interval of their own.
        """
        found: dict[str, list[tuple[float, float, float, float]]] = {"not broken": [], "proven": []}
        for number, (eps, each) in enumerate(self.points):
            counts = {"not broken": each.samples - each.broken, "proven": each.proven}
            for name, count in counts.items():
                low, high = (100 * end for end in wilson(count, each.samples))
                value = 100 * count / each.samples
                if number:
                    before = self.points[number - 1][0], value
                    at, level = before if name == "proven" else (eps, found[name][-1][1])
                    found[name].append((at, level, level, level))
                found[name].append((eps, value, low, high))
        return found


def bracket_curves(boards: Sequence[Board], certificates: Sequence[CertificateVerdict]) -> list[BracketCurve]:
    """Return a curve for each model that has a bracket at several eps of one norm."""
    found: dict[tuple[Any, ...], dict[float, Bracket]] = defaultdict(dict)
    for board in boards:
        for entry in board.entries:
            if (each := bracket(entry, certificates)) is not None:
                key = entry.data, entry.threat.norm, entry.threat.low, entry.threat.high, entry.defense, entry.victim
                found[key][entry.threat.radius] = each
    curves = ((key, tuple(sorted(points.items()))) for key, points in sorted(found.items()) if len(points) > 1)
    return [BracketCurve(key[4], key[0], key[1], points) for key, points in curves]


def _asked(claims: Claims, radius: float) -> bool:
    """Return whether a run says anything of this radius: a yes-or-no certifier proves its own and all below."""
    return claims.total.graded or claims.eps >= radius


def _proven(claims: Claims, radius: float) -> set[int]:
    return set(claims.ids[np.asarray(claims.radius) >= radius].tolist())

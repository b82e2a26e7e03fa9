"""What certificates prove of an entry, beside what attacks broke: the two sides of its robust accuracy."""

from collections.abc import Sequence

import numpy as np

from gauntlet.leaderboard.certificates import CertificateVerdict, Claims
from gauntlet.leaderboard.entry import Entry
from gauntlet.metrics.bracket import Bracket


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


def _asked(claims: Claims, radius: float) -> bool:
    """Return whether a run says anything of this radius: a yes-or-no certifier proves its own and all below."""
    return claims.total.graded or claims.eps >= radius


def _proven(claims: Claims, radius: float) -> set[int]:
    return set(claims.ids[np.asarray(claims.radius) >= radius].tolist())

"""How things are called on the site: addresses, titles, numbers."""

import hashlib
import re

from gauntlet.leaderboard.entry import AttackColumn, Board, Entry, RunLine
from gauntlet.leaderboard.run_metadata import DataKey, ThreatKey
from gauntlet.metrics.display import DASH, points, ratio

NORMS = {
    "linf": "L∞",
    "l2": "L2",
    "l1": "L1",
    "l0": "L0",
    "patch": "patches",
    "poisoning": "poisoning",
    "attribution": "attributions, L2",
}


def address(entry: Entry) -> str:
    """Return the name of an entry's page and folder: readable, safe as a file name, and different for different
    entries."""
    identity = repr((entry.data, entry.threat, entry.victim)).encode()
    words = f"{entry.data.name}-{entry.threat.norm}-{entry.eps}-{entry.defense}"
    return f"{_safe(words)}-{hashlib.sha256(identity).hexdigest()[:8]}"


def anchor(board: Board) -> str:
    """Id of a board on the index page."""
    identity = repr((board.data, board.threat)).encode()
    words = f"{board.data.name}-{board.threat.norm}-{board.eps}"
    return f"board-{_safe(words)}-{hashlib.sha256(identity).hexdigest()[:8]}"


def norm(threat: ThreatKey) -> str:
    kind, *shape = threat.norm.split(" ", 1)
    return " ".join([NORMS.get(kind, kind), *shape])


def samples(data: DataKey, n: int) -> str:
    """Return which samples, such as `all 360 samples`."""
    return f"all {n:,} samples" if data.selection == "all" else f"{n:,} samples, selection {data.selection}"


def percent(count: int, n: int) -> str:
    """Return a share in percent with one decimal, without the sign."""
    return points(ratio(count, n))


def left(of: RunLine | AttackColumn, n: int) -> str:
    """Return what a run or an attack leaves, in percent; without an eps the median distance that it needs."""
    if of.spread:
        return of.spread.quartiles()[1]
    return points(of.expected.mean if of.expected else ratio(of.survivors + of.open, n))


def share(value: float | None) -> str:
    """Return a share in percent with one decimal, without the sign."""
    return points(value)


def per(total: int, n: int) -> str:
    """Return a mean per sample, with as many digits as it is worth."""
    if not n:
        return DASH
    mean = total / n
    return f"{mean:,.0f}" if mean >= 100 else f"{mean:.1f}"


def _safe(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:60].strip("-") or "entry"

"""The table as data: one flat record per entry, for JSON and CSV."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gauntlet.leaderboard.class_results import worst_of
from gauntlet.leaderboard.distribution_shift import ShiftRow
from gauntlet.leaderboard.entry import AttackColumn, Board, Entry
from gauntlet.leaderboard.entry_card import CardLine
from gauntlet.leaderboard.formatting import address
from gauntlet.metrics.bracket import Bracket
from gauntlet.metrics.display import csv_row
from gauntlet.metrics.randomized_result import ExpectedAccuracy

SCHEMA_VERSION = 1


Brackets = Mapping[Entry, Bracket | None]


def records(boards: Sequence[Board], brackets: Brackets = MappingProxyType({})) -> list[dict[str, Any]]:
    """Return one record per entry, boards and entries in the order of the page. Shares are in [0, 1]."""
    return [_record(entry, brackets.get(entry)) for board in boards for entry in board.entries]


def as_json(
    boards: Sequence[Board],
    damaged: Sequence[str],
    cards: Mapping[Entry, Sequence[CardLine]] = MappingProxyType({}),
    brackets: Brackets = MappingProxyType({}),
    shift: Sequence[ShiftRow] = (),
) -> str:
    """Return the same as text, each record with the card of its entry; `distribution_shift` where there are such
    rows."""
    entries = records(boards, brackets)
    for record, entry in zip(entries, (entry for board in boards for entry in board.entries), strict=True):
        record["card"] = {line.key: list(line.values) for line in cards.get(entry, ())}
    content: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "entries": entries, "damaged": list(damaged)}
    if shift:
        content["distribution_shift"] = [row.to_record() for row in shift]
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(boards: Sequence[Board], brackets: Brackets = MappingProxyType({})) -> str:
    """Return the same, with one column per attack; lists are joined by `; `."""
    rows = records(boards, brackets)
    attacks = sorted({name for row in rows for name in row["attacks"]})
    fixed = [name for name in rows[0] if name != "attacks"] if rows else []
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(csv_row([*fixed, *(f"attack: {name}" for name in attacks)]))
    for row in rows:
        cells = ["; ".join(value) if isinstance(value, list) else value for value in (row[name] for name in fixed)]
        writer.writerow(csv_row([*cells, *(row["attacks"].get(name, {}).get("robust") for name in attacks)]))
    return sink.getvalue()


def _record(entry: Entry, certified: Bracket | None) -> dict[str, Any]:
    low, high = entry.interval if not (entry.unknown or entry.bounded) else (None, None)
    first, last = entry.rank or (None, None)
    return {
        "dataset": entry.data.name,
        "dataset_digest": entry.data.digest,
        "selection": entry.data.selection,
        "norm": entry.threat.norm,
        "eps": entry.eps,
        "radius": None if entry.threat.unbounded else entry.threat.radius,
        "rank_first": first,
        "rank_last": last,
        "defense": entry.defense,
        "model": entry.model,
        "victim": entry.victim,
        "n": entry.n,
        "measure": entry.measure or "share of samples",
        "clean": None if entry.clean_accuracy is None else round(entry.clean_accuracy, 6),
        "robust": None if entry.unknown or entry.bounded else round(entry.accuracy, 6),
        "robust_low": None if low is None else round(low, 6),
        "robust_high": None if high is None else round(high, 6),
        "robust_at_most": round(entry.accuracy, 6) if entry.bounded and not entry.unknown else None,
        "open": _share(entry.unanswered, entry.n),
        "proven": _share(certified.proven, certified.samples) if certified else None,
        "proven_low": round(certified.interval[0], 6) if certified else None,
        "proven_by": certified.by if certified else None,
        "unfinished": list(entry.states),
        **_worst(entry),
        **_distances(entry),
        **_masking(entry),
        "attacks": {attack.column: _attack(attack, entry.n) for attack in entry.attacks},
        "cost": round(entry.cost, 3) if entry.counted else None,
        "flags": sorted({flag.name for flag in entry.flags}),
        "verified_runs": entry.verified,
        "runs": len(entry.counted),
        "date": entry.date,
        "unranked_because": list(entry.reasons),
        "page": f"entries/{address(entry)}.html",
    }


def _worst(entry: Entry) -> dict[str, Any]:
    """Return the class of the lowest robust accuracy, null where there is no accuracy of single classes."""
    found = worst_of(entry)
    worst, name = found if found else (None, None)
    return {
        "worst_class": name,
        "worst_class_samples": worst.samples if worst else None,
        "worst_class_robust": round(worst.accuracy, 6) if worst else None,
        "worst_class_low": round(worst.interval[0], 6) if worst else None,
        "worst_class_high": round(worst.interval[1], 6) if worst else None,
    }


def _distances(entry: Entry) -> dict[str, float | None]:
    """Return the quartiles of the distances of an entry without eps; null where there are none, or that many samples
    survive."""
    found = entry.spread
    values = (found.low, found.median, found.high) if found else (math.inf,) * 3
    names = ("distance_25", "distance_median", "distance_75")
    return {name: round(value, 6) if value < math.inf else None for name, value in zip(names, values, strict=True)}


def _masking(entry: Entry) -> dict[str, Any]:
    """Return what the deployed forward alone leaves, the gradient-masking index in points, and the head that added
    most.
    """
    hidden = entry.masking
    return {
        "left_by_true_head": round(hidden.true, 6) if hidden else None,
        "left_by_all_heads": round(hidden.all, 6) if hidden else None,
        "masking_index": round(hidden.index, 4) if hidden else None,
        "masking_index_is_bound": hidden.bound if hidden else None,
        "best_head": hidden.best if hidden else None,
    }


def _attack(attack: AttackColumn, n: int) -> dict[str, Any]:
    return {
        "robust": _expected(attack.expected) if attack.expected else _share(attack.survivors, n, attack.open),
        "open": _share(attack.open, n),
        "declared_heads": attack.declared,
        "runs": attack.runs,
    }


def _expected(accuracy: ExpectedAccuracy) -> float | None:
    return None if accuracy.open else round(accuracy.mean, 6)


def _share(count: int, n: int, unanswered: int = 0) -> float | None:
    """Return a share; None where samples without an answer could change it."""
    return round(count / n, 6) if n and not unanswered else None

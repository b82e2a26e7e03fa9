"""`gauntlet import FILE --from nasrobbench201 --meta META`: accuracies that a publication reports, without evidence.

NAS-RobBench-201 (Wu et al., ICLR 2024) comes as two JSON files. The results go from data set to architecture to metric
to run; metrics are `val_acc` and `val_ATTACK_EPS_acc` with eps in units of 1/255. The meta file says of each of the
15,625 architectures of NAS-Bench-201 to which of 6,466 it is isomorphic.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gauntlet.errors import UserError, printable
from gauntlet.evidence.reported_table import FOLDER, ReportedTable
from gauntlet.system.file_reader import read_mapping, read_regular

SOURCES = ("nasrobbench201",)
NAME = "NAS-RobBench-201"
METRIC = re.compile(r"val_(?:(?P<attack>[a-z]\w*?)_(?P<eps>[0-9.]+)_)?acc")
HINT = "give NAS-RobBench-201_all.json, and meta.json with --meta"


def import_table(file: Path, meta: Path | None, runs: Path) -> tuple[Path, ReportedTable]:
    """Keep the accuracies of NAS-RobBench-201 in a runs folder; return the file, and what it holds.

    Raises:
        UserError: a file is missing, damaged or of another layout, or the runs folder cannot be written.
    """
    if meta is None:
        raise UserError("--from nasrobbench201 needs --meta FILE, which says what architectures are isomorphic")
    results, ids = read_mapping(file, HINT), read_mapping(meta, HINT).get("ids")
    if not isinstance(ids, dict) or not ids:
        raise UserError(f"{meta} has no ids; {HINT}")
    tables = {}
    for dataset, found in results.items():
        if not isinstance(found, dict):
            raise UserError(f"{file}: {printable(dataset)} is no mapping of architectures; {HINT}")
        tables[dataset] = {
            key: _accuracies(f"{file}: {dataset}, architecture {key}", found[key]) for key in _own(found, ids, file)
        }
    if not any(tables.values()):
        raise UserError(f"{file} holds no architectures; {HINT}")
    strings = {key: str(ids[key].get("nb201-string", "")) for table in tables.values() for key in table}
    digest = hashlib.sha256(read_regular(file, hint=HINT)).hexdigest()
    table = ReportedTable(NAME, f"sha256:{digest}", tables, strings)
    place = runs / FOLDER / "nasrobbench201.json"
    table.write(place)
    return place, table


def _own(found: Mapping[str, Any], ids: Mapping[str, Any], file: Path) -> list[str]:
    """Return the architectures that stand for themselves, by number: others are isomorphic to one of them."""
    for key in found:
        if not isinstance(ids.get(key), dict) or "isomorph" not in ids[key]:
            raise UserError(f"{file} has the architecture {printable(key)}, which the meta file does not list; {HINT}")
    return sorted((key for key in found if str(ids[key]["isomorph"]) == key), key=lambda key: (len(key), key))


def _accuracies(where: str, metrics: Any) -> dict[str, float]:
    """Return measure -> accuracy, the mean over the runs of an architecture."""
    if not isinstance(metrics, dict):
        raise UserError(f"{printable(where)} has no metrics; {HINT}")
    found = {}
    for name, runs in metrics.items():
        if not (match := METRIC.fullmatch(name)):
            continue
        values = list(runs.values()) if isinstance(runs, dict) else [runs]
        if not values or not all(type(v) in (int, float) and math.isfinite(v) and 0 <= v <= 1 for v in values):
            raise UserError(f"{printable(where)}: {name} is no accuracy in [0, 1]; {HINT}")
        attack, eps = match["attack"], match["eps"]
        found[f"{attack} {float(eps):g}/255" if attack else "clean"] = sum(values) / len(values)
    if not found:
        raise UserError(f"{printable(where)} has no accuracy such as val_pgd_8.0_acc; {HINT}")
    return found

"""Clean accuracies that the authors of model zoos publish for their entries.

`robustbench_clean.json` is what RobustBench's records (model_info, commit 78fcc9e) say of 236 entries; its package of
PyPI has no such records. In a checkout of it:

    python -c "from gauntlet.models.published_accuracy import *; print(json.dumps(collected('model_info'), indent=0))"
"""

import json
import re
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("robustbench_clean.json")

ENTRY = re.compile(r"[A-Z]\w*?(19|20)\d\d[A-Z]\w*.*")
"""What entries are called after: an author, a year, a word of the title. Others, such as Standard, may be anybody's."""

Accuracies = dict[str, dict[str, dict[str, float]]]
"""data set -> threat -> entry -> percent of the test images."""


def collected(folder: str | Path) -> Accuracies:
    """Return what the records of RobustBench in a folder say; of those that cannot be read nothing."""
    found: Accuracies = {}
    for path in sorted(Path(folder).glob("*/*/*.json")):
        try:
            share = float(json.loads(path.read_text())["clean_acc"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.setdefault(path.parts[-3], {}).setdefault(path.parts[-2], {})[path.stem] = share
    return found


@cache
def shipped() -> Accuracies:
    """Return the table of this package."""
    found: Accuracies = json.loads(TABLE.read_text())
    return found


def of_entry(name: str, dataset: str, threat: str, package: str | None = None) -> float | None:
    """Return the published clean accuracy of an entry, in [0, 1]; None where there is none.

    Args:
        package: file of RobustBench's package: the records of its checkout, newer than ours, come first.
    """
    sources = [] if package is None else [Path(package).parent / "model_info", Path(package).parents[1] / "model_info"]
    for folder in sources:
        try:
            return float(json.loads((folder / dataset / threat / f"{name}.json").read_text())["clean_acc"]) / 100
        except (OSError, ValueError, KeyError, TypeError):
            continue
    share = shipped().get(dataset, {}).get(threat, {}).get(name)
    return None if share is None else share / 100


def of_file(stem: str, dataset: str) -> list[float]:
    """Return the published clean accuracies of entries that a file of weights is called after, one for each threat."""
    if not ENTRY.fullmatch(stem):
        return []
    found = (of_entry(stem, dataset, threat) for threat in shipped().get(dataset, {}))
    return sorted({share for share in found if share is not None})

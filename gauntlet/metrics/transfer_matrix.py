"""Transfer rates of sources on targets, over runs. Imports no torch."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gauntlet.errors import UserError
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import find_runs
from gauntlet.metrics.display import distinct_names
from gauntlet.metrics.transfer_rates import Pair, pairs_of

Key = tuple[str, str, str, str]
"""Data set, its digest, the selection, the threat: only runs with equal keys are compared."""


@dataclass(frozen=True)
class Target:
    """One defended model under several pairs. pairs: identity of the set -> pair."""

    name: str
    victim: str
    pairs: dict[str, Pair]


def collect(folders: Sequence[Path]) -> dict[Key, list[Target]]:
    """Return the targets of the finished transfer runs below these folders.

    Raises:
        UserError: there is no such run, or one is damaged.
    """
    found: dict[Key, dict[str, Target]] = defaultdict(dict)
    for run in dict.fromkeys(run for folder in folders for run in find_runs(folder)):
        manifest = run.manifest()
        if not manifest.get("sets") or manifest["status"] != "done":
            continue
        data, victim = manifest["dataset"], manifest["victim"]
        key = str(data["name"]), str(data["digest"]), str(data["selection"]), str(manifest["name"]["threat"])
        target = found[key].setdefault(victim, Target(_named(manifest), victim, {}))
        target.pairs.update({pair.identity: pair for pair in pairs_of(run, manifest)})
    if not found:
        places = ", ".join(map(str, folders))
        raise UserError(
            f"there is no finished transfer run below {places}; make one: "
            "python run.py attack=pgd defense=trades +defense@surrogates.plain=none"
        )
    return {key: _distinct(list(targets.values())) for key, targets in sorted(found.items())}


def _named(manifest: Manifest) -> str:
    return f"{manifest['name']['defense']}"


def _distinct(targets: list[Target]) -> list[Target]:
    """Return targets of the same name distinguished by their hash."""
    names = distinct_names([target.name for target in targets], [target.victim[:6] for target in targets])
    named = [Target(name, target.victim, target.pairs) for name, target in zip(names, targets, strict=True)]
    return sorted(named, key=lambda target: target.name)

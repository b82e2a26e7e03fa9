"""The typed view of a `run.json` that scoring needs: what was attacked, under which threat, and what was promised."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gauntlet.errors import UserError, printable
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.metrics.display import kind_words
from gauntlet.metrics.perturbation_size import reach

DECLARED = "declared"
"""Value of `heads` for a run against every head that the defense declares. Only such runs are ranked."""

GRADIENT = "gradient"
"""Value of `access` for a run whose attacker had gradients. Runs with less are shown, and never ranked."""


@dataclass(frozen=True, order=True)
class DataKey:
    """A data set and the samples chosen from it."""

    name: str
    digest: str
    selection: str  # "all" or a short hash of the chosen ids


@dataclass(frozen=True, order=True)
class ThreatKey:
    """A norm ball inside a pixel box; infinite: the box. Equal radii are equal threats, however eps was written."""

    norm: str  # or another kind of threat, with its shape
    radius: float
    low: float
    high: float
    target: str = field(default="", repr=False)  # of a targeted attack: how targets were chosen; its own tables

    @property
    def unbounded(self) -> bool:
        """Return whether the box alone limits: its runs measure distances, and nothing ranks by them."""
        return self.radius == math.inf

    @property
    def reach(self) -> float:
        """Return the largest distance that counts as inside: the slack is the one with which the evaluation judges."""
        return reach(self.radius)


@dataclass(frozen=True, order=True)
class EntryFlag:
    """Something a reader must know before trusting a number."""

    name: str
    detail: str
    source: str  # run folders that it was seen in, or "across runs"


@dataclass(frozen=True)
class AttackRun:
    """One attack run. `place` is its folder relative to the runs folder, with forward slashes."""

    folder: RunFolder
    place: str
    manifest: Manifest
    status: str
    data: DataKey
    samples: int
    threat: ThreatKey
    eps: str
    victim: str
    defense: str
    model: str
    attack: str
    heads: str
    access: str
    stages: tuple[str, ...]
    chunks: int
    randomized: bool
    rule: str  # how predictions of a randomized defense are counted; empty for a deterministic one
    draws: int  # per verdict
    flags: tuple[EntryFlag, ...]
    state: str = ""  # of a run that has not ended: running, or interrupted where no process is at it; else empty

    @property
    def declared(self) -> bool:
        """Return whether it attacks all that the defense declares: every head, with gradients."""
        return self.heads == DECLARED and self.access == GRADIENT

    @property
    def column(self) -> str:
        """Return the name of the attack's column: runs that do not attack all that is declared have their own."""
        return self.attack if self.declared else f"{self.attack} ({self.through})"

    @property
    def through(self) -> str:
        """Return what the attacker went through: declared heads, true head, or the access that it had."""
        if self.access != GRADIENT:
            return f"access: {self.access}"
        return "declared heads" if self.declared else "true head"

    @property
    def date(self) -> str:
        """Day on which the run ended, or began if it did not end: YYYY-MM-DD, or an empty text."""
        return str(self.manifest.get("finished") or self.manifest.get("started") or "")[:10]


def read_run(folder: RunFolder, root: Path) -> AttackRun | None:
    """Return the run in a folder below `root`; None where it is not an attack.

    Raises:
        UserError: `run.json` is damaged, or lacks what scoring needs.
    """
    manifest = folder.manifest()
    if manifest["kind"] != "attack":
        return None
    stages = tuple(manifest["stages"])
    if stages[:1] != (CLEAN_STAGE,) or len(set(stages)) != len(stages) or "attack" not in manifest["name"]:
        raise UserError(
            f"{folder.manifest_path} cannot be used: its stages must begin with {CLEAN_STAGE!r} and differ, and its "
            "attack must have a name; run the same command again"
        )
    return _described(folder, printable(folder.path.relative_to(root).as_posix()), manifest)


def _described(folder: RunFolder, place: str, manifest: Manifest) -> AttackRun:
    data, threat, name = manifest["dataset"], manifest["threat"], manifest["name"]
    radius = math.inf if threat["radius"] is None else float(threat["radius"])
    low, high = float(threat.get("low", 0)), float(threat.get("high", 1))
    key = ThreatKey(kind_words(threat), radius, low, high, _aim(manifest))
    protocol = manifest.get("protocol")
    return AttackRun(
        folder=folder,
        place=place,
        manifest=manifest,
        status=manifest["status"],
        data=DataKey(data["name"], data["digest"], data["selection"]),
        samples=data["samples"],
        threat=key,
        eps=threat.get("eps", str(key.radius)) + (f", targeted ({key.target.replace('_', ' ')})" if key.target else ""),
        victim=manifest["victim"],
        defense=name["defense"],
        model=name.get("model", ""),
        attack=name["attack"],
        heads=manifest["heads"],
        access=manifest.get("access", GRADIENT),
        stages=tuple(manifest["stages"]),
        chunks=manifest["chunks"],
        randomized=manifest["card"].get("randomized", False),
        rule=protocol["rule"] if protocol else "",
        draws=protocol.get("draws", 1) if protocol else 1,
        state="" if manifest["status"] != "running" else "running" if folder.at_work() else "interrupted",
        flags=tuple(EntryFlag(flag["name"], flag.get("detail", ""), place) for flag in manifest.get("flags", [])),
    )


def _aim(manifest: Manifest) -> str:
    """Return how the targets of a targeted attack were chosen; of a column of the data set with what tells it from
    another."""
    rule, digest = manifest["threat"].get("target", ""), manifest["dataset"].get("targets", "")
    return f"{rule} {digest.removeprefix('sha256:')[:6]}".strip()


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping unchanged, anything else as an empty one: manifests may be somebody else's."""
    return value if isinstance(value, Mapping) else {}

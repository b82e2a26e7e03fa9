"""What a board believes of the verification of a run: verdicts of the one who builds it, on unchanged files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gauntlet.errors import UserError
from gauntlet.evidence.digest import adversarial_digest, manifest_digest, records_digest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.typed_json import Misfit, check
from gauntlet.evidence.verdict import Verdict
from gauntlet.evidence.verdict_seal import is_own
from gauntlet.system.file_reader import read_json

DIGESTS: dict[str, Callable[[RunFolder], str]] = {
    "records_digest": records_digest,
    "manifest_digest": manifest_digest,
    "adversarial_digest": adversarial_digest,
}

UNVERIFIED = {
    "none": "unverified",
    "stale": "unverified, changed since it was checked",
    "foreign": "unverified, its verdict is not by the one who built this board",
}

Fresh = Mapping[Path, Verdict]
"""Folder of a run -> its verdict of a moment ago."""

NO_VERDICTS: Fresh = {}


@dataclass(frozen=True)
class Verification:
    """What an independent check said: verified | partial | failed | stale | foreign | none.

    Attributes:
        checked: stored examples, or certificates, that were checked; `claimed` of them or more are claimed.
        failed: problems.
        level: examples, counts, replayed k of n, or full; k is `replayed` and n `total`.
        date, version: when, and by which version of this program.
    """

    state: str
    checked: int = 0
    failed: int = 0
    claimed: int = 0
    level: str = ""
    replayed: int = 0
    total: int = 0
    date: str = ""
    version: str = ""

    @property
    def words(self) -> str:
        """Return what a reader sees."""
        if self.state in UNVERIFIED:
            return UNVERIFIED[self.state]
        level = self.level or "examples"
        return {"failed": "failed", "partial": f"{level}, in part"}.get(self.state, level)

    @property
    def made(self) -> str:
        """Return when and by which version it was checked; empty where it was not."""
        return f"{self.date}, gauntlet {self.version}" if self.date and self.version else self.date


def least_level(checks: Sequence[Verification]) -> str:
    """Return the level that all of some verified runs have at least; of replays the samples of all together."""
    if any(check.replayed == 0 for check in checks):
        return next(check.words for check in checks if check.replayed == 0)
    if all(check.level == "full" for check in checks):
        return "full"
    return f"replayed {sum(check.replayed for check in checks)} of {sum(check.total for check in checks)}"


def verification_of(run: RunFolder, fresh: Fresh = NO_VERDICTS) -> Verification:
    """Return what is known of the verification of a run.

    A file that says "verified" is believed where it has the seal of this user and the digests of the files as they are
    now, and nowhere else.

    Raises:
        OSError, UserError, Misfit: the verdict or the evidence cannot be read.
    """
    path = run.path / "verification.json"
    found: Any = fresh.get(run.path)
    if found is None:
        if not path.exists():
            return Verification("none")
        found = read_json(path)
        check(found, Verdict)
        if not is_own(found):
            return Verification("foreign")
    facts = {"checked": found["checked"], "failed": found["failed"], "claimed": found.get("claimed", 0)}
    if any(found.get(name) != digest(run) for name, digest in DIGESTS.items()):
        return Verification("stale", **facts)
    facts |= {"replayed": found.get("replayed", 0), "total": found.get("total", 0)}
    facts |= {"level": found.get("level", ""), "date": str(found.get("time", ""))[:10]}
    facts["version"] = found.get("versions", {}).get("gauntlet", "")
    if found["verified"]:
        return Verification("verified", **facts)
    if found.get("partial"):
        return Verification("partial", **facts)
    return Verification("failed" if found["failed"] else "none", **facts)  # without stored examples nothing failed


def read_verification(run: RunFolder, place: str, damaged: list[str], fresh: Fresh = NO_VERDICTS) -> Verification:
    """Return the same; what cannot be read is a line in `damaged`, and verifies nothing. place: of the run."""
    try:
        return verification_of(run, fresh)
    except (OSError, UserError, Misfit):
        damaged.append(f"{place}/verification.json cannot be read; verify the run again")
        return Verification("none")

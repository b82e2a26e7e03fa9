"""What checking a run has found, and how it is told."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from gauntlet.evidence.example_storage import StoragePolicy
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.verification.sampling import chance_words

SHOWN = 20
"""Problems that are printed and kept; all are counted."""

NOT_STORED = "no adversarial examples were stored (runtime.keep=none)"
IN_PART = "{} of {} broken samples have their adversarial example stored (runtime.keep={})"
UNPROVEN = "stated by the run and not proven: commit, versions, device, dates, seconds"


@dataclass
class Replayed:
    """What re-running samples of a run gave.

    Attributes:
        samples: re-run, of `total` that the attack, or the certifier, was run on.
        units, all_units: chunks re-run and their total, where an attack compares samples and chunks are the unit.
        rows: compared; `equal` of them to the last bit, the rest within rounding or a problem.
        nonce: with the digest of the records it decides which samples these were.
    """

    samples: int = 0
    total: int = 0
    units: int = 0
    all_units: int = 0
    rows: int = 0
    equal: int = 0
    nonce: str = ""

    @property
    def full(self) -> bool:
        """Return whether everything was re-run."""
        return self.samples >= self.total

    @property
    def chance(self) -> str:
        """Return with which probability changed rows would have been missed, in words."""
        if self.all_units:
            return chance_words(self.units, self.all_units, "chunks")
        return chance_words(self.samples, self.total)


@dataclass
class Report:
    """What was checked in one run.

    Attributes:
        kind: attack or certificate.
        samples: whose clean prediction was repeated, or whose certificate was computed anew from its counts.
        checked: stored adversarial examples, also those that fooled nobody.
        claimed: rows that say "broken" in a stage other than the clean one; certificates of a radius above zero.
        shown: those of `claimed` whose example is stored.
        keep: which adversarial examples the run was to store; without them nothing is verified.
        foreign: who claims the certificates, where they are of another verifier; then nothing is verified.
        problems: one line each.
        notes: what was taken as it is, one line each.
        replayed: what re-running gave; None: nothing was re-run.
    """

    kind: str = "attack"
    samples: int = 0
    checked: int = 0
    claimed: int = 0
    shown: int = 0
    keep: StoragePolicy = field(default_factory=lambda: StoragePolicy.of("broken"))
    foreign: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    replayed: Replayed | None = None

    @property
    def level(self) -> str:
        """Return what was checked, in the words of the board."""
        if self.replayed is None or not self.replayed.total:
            return "examples" if self.kind == "attack" else "counts"
        if self.replayed.full:
            return "full"
        return f"replayed {self.replayed.samples} of {self.replayed.total}"

    @property
    def verified(self) -> bool:
        """Return whether every claim was confirmed at this level."""
        if self.foreign:
            return False
        shown = self.keep.images > 0 and self.shown == self.claimed
        return not self.problems and (shown or self.kind == "certificate" or self.level == "full")

    @property
    def partial(self) -> bool:
        """Return whether what is stored was confirmed, and there are claims beyond it."""
        return 0 < self.shown < self.claimed and not self.problems and not self.verified

    @property
    def lack(self) -> str:
        """Return why a run without problems is not verified."""
        if self.foreign:
            return f"claimed by {self.foreign}, not checked by us; prove it with certifier=crown"
        return IN_PART.format(self.shown, self.claimed, self.keep.text) if self.keep.images else NOT_STORED


def lines(run: RunFolder, report: Report) -> Iterator[str]:
    """Yield the verdict for people."""
    if not report.problems and not report.verified:
        yield f"{'verified in part' if report.partial else 'not verified'} ({report.level}): {run.path}"
        yield f"  {report.lack}"
    elif report.verified:
        yield f"verified ({report.level}): {run.path}"
    else:
        yield f"{len(report.problems)} PROBLEMS: {run.path}"
    yield from (f"  {problem}" for problem in report.problems[:SHOWN])
    if len(report.problems) > SHOWN:
        yield f"  and {len(report.problems) - SHOWN} more"
    if report.kind == "attack":
        yield (
            f"  {report.claimed} broken samples claimed, {report.checked} adversarial examples and {report.samples} "
            "clean predictions repeated; manifest rebuilt from configuration, data and weights"
        )
    elif not report.foreign:
        yield f"  {report.samples} certificates computed anew from their counts, {report.claimed} of a radius above 0"
    yield from (f"  {line}" for line in _replay_lines(report))
    yield from (f"  note: {note}" for note in report.notes)
    yield f"  {UNPROVEN}"


def _replay_lines(report: Report) -> Iterator[str]:
    done = report.replayed
    if done is None:
        what = "survivors are" if report.kind == "attack" else "counts and bounds are"
        yield f"nothing was re-run: {what} as the run states them; --replay 16 re-runs some samples, --full all"
        return
    yield (
        f"{done.samples} of {done.total} samples re-run: {done.rows} rows compared, {done.equal} equal to the last "
        f"bit (nonce {done.nonce})"
    )
    if done.total:
        yield done.chance
    if report.kind == "attack":
        yield "not checked: whether a stronger attack breaks the survivors"

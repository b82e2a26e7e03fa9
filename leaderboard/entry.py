"""What the board shows: entries, their runs, and the tables that hold them."""

from dataclasses import dataclass

from gauntlet.evidence.manifest import StopFacts
from gauntlet.leaderboard.collect import RunPasses
from gauntlet.leaderboard.query_plot import NamedQueryCurve
from gauntlet.leaderboard.robustness_curve_plot import RobustnessCurve
from gauntlet.leaderboard.run_metadata import AttackRun, DataKey, EntryFlag, ThreatKey
from gauntlet.leaderboard.sample_facts import SampleFacts
from gauntlet.leaderboard.sample_verdicts import AdversarialExample, Bools, Ints, StageTotals
from gauntlet.leaderboard.verification_state import Verification, least_level
from gauntlet.metrics.anytime_interval import anytime
from gauntlet.metrics.confidence import wilson
from gauntlet.metrics.gradient_masking import Masking
from gauntlet.metrics.perturbation_size import Spread
from gauntlet.metrics.randomized_result import ACCURACIES, ExpectedAccuracy
from gauntlet.metrics.rejection import Rejection


@dataclass(frozen=True)
class RunLine:
    """One run of an entry, without its arrays."""

    run: AttackRun
    survivors: int  # samples that this run alone does not break, of those that it recorded to the end
    open: int  # samples that it neither broke nor recorded to the end
    spread: Spread | None  # of its nearest adversarial examples, where there is no eps
    alone: int  # samples that it broke and no other counted run of the entry
    after: int | None  # samples that neither it nor a counted run that ended before it broke; None: it does not count
    stages: tuple[StageTotals, ...]
    expected: ExpectedAccuracy | None  # of a randomized defense: right on its worst candidates
    passes: RunPasses
    examples: tuple[AdversarialExample, ...]
    verification: Verification
    problems: tuple[str, ...]
    damaged: tuple[str, ...]

    @property
    def ended(self) -> bool:
        """Return whether the run has come to its end; what an unfinished one holds moves no number."""
        return not self.run.state


@dataclass(frozen=True)
class AttackColumn:
    """One column of an entry: the worst case over the runs of one attack."""

    column: str
    declared: bool
    runs: int
    survivors: int
    open: int
    expected: ExpectedAccuracy | None
    spread: Spread | None  # of the nearest adversarial examples, where there is no eps

    @property
    def left(self) -> float:
        """Return what orders the attacks of one entry, the strongest first: what it leaves, or how far it must go."""
        if self.spread:
            return self.spread.median
        return self.expected.mean if self.expected else float(self.survivors + self.open)


@dataclass(frozen=True)
class Elsewhere:
    """A run outside the entry whose adversarial examples lower its number."""

    place: str
    reason: str
    lowered: int  # samples that it broke and the entry's own runs did not


@dataclass(frozen=True, eq=False)
class Entry:
    """One row of the board, by the runs that have ended. Counts are samples out of `n`."""

    data: DataKey
    threat: ThreatKey
    eps: str
    victim: str
    defense: str
    model: str
    n: int  # samples; robust + broken + open = n
    known: int  # samples with a clean prediction on record
    clean: int  # of these, right in every run of the entry
    robust: int
    open: int
    ids: Ints  # those with a clean prediction on record
    facts: SampleFacts  # of these
    clean_wrong: Bools  # of these: wrong without an attack
    robust_ids: Ints
    broken_ids: Ints  # wrong without an attack, too
    runs: tuple[RunLine, ...]
    attacks: tuple[AttackColumn, ...]
    elsewhere: tuple[Elsewhere, ...]
    flags: tuple[EntryFlag, ...]
    reasons: tuple[str, ...]  # why it is not ranked; empty: it is
    curves: tuple[RobustnessCurve, ...]  # accuracy at every eps, where a run measured distances; the worst case first
    queries: tuple[NamedQueryCurve, ...]  # of its runs that took no gradient
    spread: Spread | None  # of the nearest adversarial examples, where there is no eps
    expected: (
        ExpectedAccuracy | None
    )  # of a randomized defense, whose counts speak of majorities: its accuracy under attack
    expected_clean: ExpectedAccuracy | None
    masking: Masking | None
    rejection: Rejection | None = None  # of a defense that rejects
    rank: tuple[int, int] | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the robust accuracy: Wilson's of the share of samples, or that of an
        expectation; where a run might end early, one that holds however often one looked."""
        if self.looked:
            return anytime(self.expected.mean * self.n if self.expected else self.robust, self.n)
        return self.expected.interval if self.expected else wilson(self.robust, self.n)

    @property
    def looked(self) -> StopFacts | None:
        """Return where a run of it might have ended before its last image, and did if `images` is less than `of`."""
        return next((facts for line in self.runs if (facts := line.run.manifest.get("stop_when"))), None)

    @property
    def early(self) -> bool:
        """Return whether its runs ended before their last image."""
        return self.looked is not None and self.looked["images"] < self.looked["of"]

    @property
    def accuracy(self) -> float:
        """Return the robust accuracy, in [0, 1]: the number to quote; what it is at most where `bounded`."""
        return self.expected.mean if self.expected else (self.robust + self.open) / self.n

    @property
    def bounded(self) -> bool:
        """Return whether samples lack an answer, so that the accuracy is an upper bound without an interval."""
        return self.unanswered > 0

    @property
    def unanswered(self) -> int:
        """Return the samples without an answer: `open`, or those of an expectation that may yet be worse."""
        return self.expected.open if self.expected else self.open

    @property
    def unknown(self) -> bool:
        """Return whether attacks said nothing: each sample that is right without one lacks an answer. Then there is no
        number.
        """
        if self.expected:
            return self.expected.unknown
        return self.open > 0 and self.open == self.n - (self.known - self.clean)

    @property
    def clean_accuracy(self) -> float | None:
        """Return the accuracy without an attack, in [0, 1]; None where nothing is known."""
        if self.expected_clean:
            return self.expected_clean.mean
        return self.clean / self.known if self.known else None

    @property
    def measure(self) -> str:
        """Return what the robust accuracy of a randomized defense is; empty for a deterministic one."""
        return ACCURACIES.get(self.runs[0].run.rule, "")

    @property
    def counted(self) -> tuple[RunLine, ...]:
        return tuple(line for line in self.ended if line.run.declared)

    @property
    def ended(self) -> tuple[RunLine, ...]:
        return tuple(line for line in self.runs if line.ended)

    @property
    def states(self) -> tuple[str, ...]:
        """Return what its unfinished runs are: running, interrupted, both or neither."""
        return tuple(sorted({line.run.state for line in self.runs if not line.ended}))

    @property
    def cost(self) -> float:
        """Return passes per attacked sample, F + 2 B, summed over the counted runs."""
        passes = [line.passes for line in self.counted]
        return sum((each.forwards + 2 * each.backwards) / max(1, each.attacked) for each in passes)

    @property
    def verified(self) -> int:
        """Return the number of counted runs that an independent check confirmed."""
        return sum(line.verification.state == "verified" for line in self.counted)

    @property
    def level(self) -> str:
        """Return to which level all counted runs are verified; empty where one of them is not."""
        checks = [line.verification for line in self.counted]
        return least_level(checks) if checks and self.verified == len(checks) else ""

    @property
    def date(self) -> str:
        return max((line.run.date for line in self.ended), default="")


@dataclass(frozen=True)
class Board:
    """The entries that face the same threat on the same samples, best first; those without a rank come last."""

    data: DataKey
    threat: ThreatKey
    eps: str
    entries: tuple[Entry, ...]
    floor: str = ""  # what must have been run against an entry before it is ranked, in words; empty: anything

    @property
    def predicted_labels(self) -> bool:
        """Return whether the data set has no labels but the predictions of each model."""
        return "labels" in self.entries[0].runs[0].run.manifest["dataset"]

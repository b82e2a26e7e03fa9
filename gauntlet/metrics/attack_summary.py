"""What the evidence of one run adds up to. Always counted from the files, never from a process's memory."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gauntlet.evidence.manifest import Cost
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE, PHASE
from gauntlet.metrics.confidence import wilson
from gauntlet.metrics.display import UNKNOWN, span
from gauntlet.metrics.randomized_result import ExpectedAccuracy, RandomizedResult


@dataclass
class AttackSummary:
    """Counts over all chunks of a run.

    Attributes:
        samples, clean: evaluated, and right without an attack.
        robust: right after every stage, with a record of each stage to show for it.
        open: right without an attack, broken by none, and yet without a record of each stage: errors and missing rows.
        survivors: per stage, the samples that no stage up to it broke.
        broken: per stage, the samples that it broke by itself, of those that are right without an attack.
        phases: per stage whose attack names its parts, the samples that each part broke, of the same.
        cost: per stage.
        errors: distinct error texts with their counts.
        gradients: per stage, the samples attacked, those whose gradient was once zero, and those where it was once bad.
        randomized: of a randomized defense, what its draws say.
        classes: class -> its samples, and those of them that no stage broke.
        looked: the interval that holds however often one looked, of a run that might end early.
    """

    samples: int = 0
    clean: int = 0
    robust: int = 0
    open: int = 0
    survivors: dict[str, int] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    phases: dict[str, dict[str, int]] = field(default_factory=dict)
    cost: dict[str, Cost] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    gradients: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    randomized: RandomizedResult | None = None
    classes: dict[int, tuple[int, int]] = field(default_factory=dict)
    looked: tuple[float, float] | None = None

    @property
    def unknown(self) -> bool:
        """Return whether attacks said nothing: each sample that is right without one lacks an answer."""
        if self.expected:
            return self.expected.unknown
        return self.open > 0 and self.open == self.clean

    @property
    def bounded(self) -> bool:
        """Return whether samples lack an answer, so that the accuracy is known as an upper bound alone."""
        return (self.expected.open if self.expected else self.open) > 0

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the robust accuracy: Wilson's, or the one that holds however often one looked."""
        return self.looked or wilson(self.robust, self.samples)

    @property
    def expected(self) -> ExpectedAccuracy | None:
        """Return the accuracy under attack of a randomized defense; None for a deterministic one."""
        return self.randomized.accuracy() if self.randomized else None

    @property
    def expected_clean(self) -> ExpectedAccuracy | None:
        """Return the same without an attack."""
        return self.randomized.clean.accuracy() if self.randomized else None


def robust_words(total: AttackSummary) -> str:
    """Return the robust accuracy as a report states it: with its interval, as a bound, or as unknown."""
    if total.unknown:
        return f"{UNKNOWN:>7}   each sample that was attacked ended with an error"
    if total.open:
        bound = (total.robust + total.open) / total.samples
        return f"{bound:7.2%}   at most: {total.open} of {total.samples} samples ended without an answer"
    return f"{total.robust / total.samples:7.2%}   95 % interval {span(*total.interval)}"


def expected_words(expected: ExpectedAccuracy, total: AttackSummary) -> str:
    """Return the expected accuracy under attack as a report states it: with its interval, or as a bound."""
    if expected.open:
        return f"{expected.mean:7.2%}   at most: {expected.open} of {total.samples} samples ended without an answer"
    return f"{expected.mean:7.2%}   95 % interval {span(*(total.looked or expected.interval))}"


def summarize(run: RunFolder, stages: list[str], chunks: Iterable[int] | None = None) -> AttackSummary:
    """Return the sums over the records of a run, read one chunk at a time. chunks: of these alone; None: of all."""
    total = AttackSummary(survivors=dict.fromkeys(stages, 0), broken=dict.fromkeys(stages[1:], 0))
    drawn: list[RandomizedResult] = []
    present = run.present()
    for chunk in sorted(present if chunks is None else present.intersection(chunks)):
        table = run.read_part(chunk)
        seconds = run.read_seconds(chunk)
        alive: set[int] = set()
        labels: dict[int, int] = {}
        right: set[int] = set()
        fallen: set[int] = set()
        for stage in stages:
            part = table.filter(pc.equal(table["stage"], stage))
            sample, broken = part["sample"].to_numpy(), part["broken"].to_numpy(zero_copy_only=False)
            fine = pc.is_null(part["error"]).to_numpy(zero_copy_only=False)
            held = set(sample[~broken & fine].tolist())
            if stage == CLEAN_STAGE:
                total.samples += len(part)
                total.clean += len(held)
                alive = right = held
                labels = dict(zip(sample.tolist(), part["label"].to_pylist(), strict=True))
            else:
                alive = alive & held  # a sample without a record of this stage does not pass it
                successes = right & set(sample[broken & fine].tolist())
                fallen |= successes
                total.broken[stage] += len(successes)
                _phases(total, stage, part, successes)
            total.survivors[stage] += len(alive)
            _add(total, stage, part, seconds.get(stage, 0.0))
        total.robust += len(alive)
        for number, label in labels.items():
            count, robust = total.classes.get(label, (0, 0))
            total.classes[label] = count + 1, robust + (number in alive)
        total.open += len(right - alive - fallen)
        drawn += filter(None, [RandomizedResult.of(table)])
        for text in table["error"].drop_null().to_pylist():
            total.errors[text] = total.errors.get(text, 0) + 1
    total.randomized = RandomizedResult.among(drawn)
    return total


def _phases(total: AttackSummary, stage: str, part: pa.Table, successes: set[int]) -> None:
    if PHASE.name not in part.column_names:
        return
    counts = total.phases.setdefault(stage, {})
    for sample, phase in zip(part["sample"].to_pylist(), part[PHASE.name].to_pylist(), strict=True):
        if phase is not None:
            counts[phase] = counts.get(phase, 0) + (sample in successes)


def _add(total: AttackSummary, stage: str, part: pa.Table, seconds: float) -> None:
    def column(name: str) -> np.ndarray:
        values: np.ndarray = part[name].to_numpy()
        return values

    zero, bad = column("zero_gradients"), column("bad_gradients")
    cost = total.cost.setdefault(stage, Cost(attacked=0, forwards=0, backwards=0, seconds=0.0))
    cost["attacked"] += len(zero)
    cost["forwards"] += int(column("forwards").sum())
    cost["backwards"] += int(column("backwards").sum())
    cost["seconds"] = round(cost["seconds"] + seconds, 3)
    seen = total.gradients.get(stage, (0, 0, 0))
    total.gradients[stage] = (seen[0] + len(zero), seen[1] + int((zero > 0).sum()), seen[2] + int((bad > 0).sum()))


def survivors(run: RunFolder, stages: list[str]) -> list[int]:
    """Return the samples of a finished run that are right without an attack and that no stage broke, in order."""
    left: list[int] = []
    for table in run.read_parts():
        sample, stage = table["sample"].to_numpy(), table["stage"]
        clean = pc.equal(stage, stages[0]).to_numpy(zero_copy_only=False)
        fallen = table["broken"].to_numpy(zero_copy_only=False)
        left += np.setdiff1d(sample[clean], sample[fallen]).tolist()
    return sorted(left)

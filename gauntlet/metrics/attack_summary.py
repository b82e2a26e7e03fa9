"""What the evidence of one run adds up to. Always counted from the files, never from a process's memory."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gauntlet.evidence.manifest import Cost
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE, FOOLED, PHASE
from gauntlet.metrics.confidence import wilson

TRUE = "true"
"""The head that is the deployed forward."""


@dataclass
class AttackSummary:
    """Counts over all chunks of a run.

    Attributes:
        samples, clean: evaluated, and right without an attack.
        robust: right after every stage, with a record of each stage to show for it.
        standing: per stage, the samples that still stand after it.
        broken: per stage, the samples that it broke by itself, of those that are right without an attack.
        phases: per stage whose attack names its parts, the samples that each part broke, of the same.
        cost: per stage.
        errors: distinct error texts with their counts.
        gradients: per stage, the samples attacked, those whose gradient was once zero, and those where it was once bad.
        correct: of a randomised defense, for each sample the share of right verdicts on its worst candidate, in draws
            that did not choose it; zero for a sample with an error.
        unattacked: the same of the clean images alone.
        alone: the same of the candidates of the true head, where other heads are attacked too.
        won: per head, the samples whose worst candidate is its and worse than those of the true head.
        fooled: of a mixture, for each sample the members that some candidate fooled, as bits; all for one with an
            error.
    """

    samples: int = 0
    clean: int = 0
    robust: int = 0
    standing: dict[str, int] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    phases: dict[str, dict[str, int]] = field(default_factory=dict)
    cost: dict[str, Cost] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    gradients: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    correct: list[float] = field(default_factory=list)
    unattacked: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    won: dict[str, int] = field(default_factory=dict)
    fooled: list[int] = field(default_factory=list)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the robust accuracy."""
        return wilson(self.robust, self.samples)

    @property
    def expected(self) -> tuple[float, float] | None:
        """Mean and standard error, over samples, of the share of right verdicts; None for a deterministic defense."""
        return _mean(self.correct)

    @property
    def expected_clean(self) -> tuple[float, float] | None:
        """The same without an attack."""
        return _mean(self.unattacked)


def _mean(shares: list[float]) -> tuple[float, float] | None:
    """Mean and standard error."""
    if not shares:
        return None
    found = np.array(shares)
    spread = float(found.std(ddof=1)) if len(found) > 1 else 0.0
    return float(found.mean()), spread / math.sqrt(len(found))


def tally(run: RunFolder, stages: list[str], chunks: Iterable[int] | None = None) -> AttackSummary:
    """Add up the records of a run, one chunk at a time. chunks: of these alone; None: of all."""
    total = AttackSummary(standing=dict.fromkeys(stages, 0), broken=dict.fromkeys(stages[1:], 0))
    present = run.present()
    for chunk in sorted(present if chunks is None else present.intersection(chunks)):
        table = run.read_part(chunk)
        seconds = run.read_seconds(chunk)
        alive: set[int] = set()
        right: set[int] = set()
        for stage in stages:
            part = table.filter(pc.equal(table["stage"], stage))
            sample, broken = part["sample"].to_numpy(), part["broken"].to_numpy(zero_copy_only=False)
            fine = pc.is_null(part["error"]).to_numpy(zero_copy_only=False)
            held = set(sample[~broken & fine].tolist())
            if stage == CLEAN_STAGE:
                total.samples += len(part)
                total.clean += len(held)
                alive = right = held
            else:
                alive = alive & held  # a sample without a record of this stage does not pass it
                finds = right & set(sample[broken & fine].tolist())
                total.broken[stage] += len(finds)
                _phases(total, stage, part, finds)
            total.standing[stage] += len(alive)
            _add(total, stage, part, seconds.get(stage, 0.0))
        total.robust += len(alive)
        if "wrong_share" in table.column_names:
            right_share, worst, row = _worst(table)
            total.correct += right_share
            total.unattacked += _worst(table.filter(pc.equal(table["stage"], CLEAN_STAGE)))[0]
            _by_heads(total, table, worst, row)
        if FOOLED.name in table.column_names:
            total.fooled += _fooled(table)
        for text in table["error"].drop_null().to_pylist():
            total.errors[text] = total.errors.get(text, 0) + 1
    return total


def _phases(total: AttackSummary, stage: str, part: pa.Table, finds: set[int]) -> None:
    if PHASE.name not in part.column_names:
        return
    counts = total.phases.setdefault(stage, {})
    for sample, phase in zip(part["sample"].to_pylist(), part[PHASE.name].to_pylist(), strict=True):
        if phase is not None:
            counts[phase] = counts.get(phase, 0) + (sample in finds)


def _by_heads(total: AttackSummary, table: pa.Table, worst: np.ndarray, row: np.ndarray) -> None:
    """What the true head finds by itself, and what the others add to it. worst, row: of `_worst(table)`."""
    heads = [stage.rpartition("/")[2] for stage in total.standing if "/" in stage]
    if len(set(heads)) < 2 or TRUE not in heads:
        return
    named = table["stage"].to_pylist()
    deployed = pa.array([stage == CLEAN_STAGE or stage.endswith(f"/{TRUE}") for stage in named])
    alone, most, _ = _worst(table.filter(deployed))
    total.alone += alone
    for head in heads:
        total.won.setdefault(head, 0)
    for place in np.flatnonzero(worst > most):
        total.won[named[row[place]].rpartition("/")[2]] += 1


def _worst(table: pa.Table) -> tuple[list[float], np.ndarray, np.ndarray]:
    """For each sample the share of right verdicts on its worst candidate, the clean image among them; the share of the
    choosing draws that are wrong there; and its row."""
    wrong, fresh = (table[name].fill_null(1.0).to_numpy() for name in ("wrong_share", "fresh_share"))
    place = np.unique(table["sample"].to_numpy(), return_inverse=True)[1]
    order = np.lexsort((table["margin"].to_numpy(), -wrong, place))
    row = order[np.unique(place[order], return_index=True)[1]]
    right: list[float] = (1 - fresh[row].astype(float)).tolist()
    return right, wrong[row], row


def _fooled(table: pa.Table) -> list[int]:
    """For each sample the members that are wrong on one candidate at least, the clean image among them."""
    sample = table["sample"].to_numpy()
    order = np.argsort(sample, kind="stable")
    starts = np.unique(sample[order], return_index=True)[1]
    each = table[FOOLED.name].fill_null(-1).to_numpy()[order]
    united: list[int] = np.bitwise_or.reduceat(each, starts).tolist() if len(each) else []
    return united


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

"""Flags that the records of a run show."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from gauntlet.evaluation.gradient_draws import AGREEMENT
from gauntlet.metrics.attack_summary import AttackSummary
from gauntlet.metrics.confidence import tail
from gauntlet.metrics.gradient_masking import MASKED, masking_of
from gauntlet.sanity_checks.flag import Flag

DOUBT = 0.05
"""A clean accuracy that guessing reaches with at least this probability is not told from chance."""


def from_evidence(total: AttackSummary, compare: bool = True) -> list[Flag]:
    """Return the flags that the records of a run show.

    compare: whether its stages are attacks on the victim itself, so that what one finds and another does not says
        something about the victim's gradients.
    """
    flags = []
    for stage, (attacked, zero, bad) in total.gradients.items():
        if zero > 0.01 * attacked:
            flags.append(Flag("zero-gradients", f"{stage}: {zero} of {attacked} samples had an input gradient of zero"))
        if bad:
            flags.append(Flag("bad-gradients", f"{stage}: {bad} of {attacked} samples had NaN or infinite gradients"))
    return [*flags, *(_weaker_wins(total) if compare else ())]


def clean_at_chance(total: AttackSummary, classes: int) -> Iterator[Flag]:
    """Yield a flag where the clean accuracy cannot be told from that of guessing, one class in so many.

    A one-sided exact binomial test at `DOUBT`, of an accuracy that lies nearer chance than 100 %: two images alone say
    nothing against a network that has both right. Of a randomized defense `clean` counts the samples that most draws
    get right.

    classes: of the data set.
    """
    chance = 1 / classes
    nearer = total.clean < total.samples * (1 + chance) / 2
    if not nearer or tail(total.clean, total.samples, chance) <= DOUBT:
        return
    detail = f"{total.clean} of {total.samples} clean images are right, as guessing one of {classes} classes could be"
    yield Flag(
        "clean-at-chance", f"{detail}: other labels or preprocessing than the model's, its weights, or too few images"
    )


def noisy_gradients(draws: dict[str, dict[str, Any]]) -> Iterator[Flag]:
    """Yield flags of heads whose gradient did not agree with itself with the most draws that were tried."""
    for head, found in draws.items():
        if found.get("cosine", 1.0) <= AGREEMENT:
            detail = f"{head}: gradients over {found['draws']} draws agree by a cosine of {found['cosine']:.2f} only"
            yield Flag("noisy-gradients", detail)


def decisions_beat_scores(total: AttackSummary, needs: Mapping[str, str]) -> Iterator[Flag]:
    """Yield flags of samples that decisions broke and scores did not: the scores mislead.

    Args:
        needs: stage -> the level of access that its attack needs.
    """
    stages = [stage for stage in total.survivors if stage in needs]
    for before, stage in pairwise(stages):
        found = total.survivors[before] - total.survivors[stage]
        scored = any(needs[other] == "score" for other in stages[: stages.index(stage)])
        if scored and needs[stage] == "decision" and found > 0.002 * total.samples:
            yield Flag("decision-beats-scores", f"{stage}, given decisions, broke {found} samples that scores did not")


def _weaker_wins(total: AttackSummary) -> Iterator[Flag]:
    """Yield flags of samples that only a weaker kind of stage broke: the gradients of those before are hidden."""
    found = masking_of(total)
    few = max(0.002 * total.samples, 2)
    if found is not None and (behind := (found.true - found.all) * total.samples) > few + 1e-9:
        yield Flag(MASKED, f"heads other than the true one broke {behind:.0f} more samples")
    stages = [stage for stage in total.survivors if "/" in stage]
    for before, stage in pairwise(stages):
        broken = total.survivors[before] - total.survivors[stage]
        white = any(total.cost[other]["backwards"] for other in stages[: stages.index(stage)])
        if white and not total.cost[stage]["backwards"] and broken > 0.002 * total.samples:
            yield Flag("black-box-wins", f"{stage}, without gradients, broke {broken} samples that gradients did not")

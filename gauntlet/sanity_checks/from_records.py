"""Flags that the records of a run show."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from gauntlet.evaluation.gradient_draws import AGREEMENT
from gauntlet.metrics.attack_summary import AttackSummary
from gauntlet.sanity_checks.flag import Flag


def from_evidence(total: AttackSummary, compare: bool = True) -> list[Flag]:
    """Flags that the records of a run show.

    compare: whether its stages are attacks on the victim itself, so that what one finds and another does not says
        something about the victim's gradients.
    """
    flags = []
    for stage, (attacked, zero, bad) in total.gradients.items():
        if zero > 0.01 * attacked:
            flags.append(Flag("zero-gradients", f"{stage}: {zero} of {attacked} samples had an input gradient of zero"))
        if bad:
            flags.append(Flag("bad-gradients", f"{stage}: {bad} of {attacked} samples had NaN or infinite gradients"))
    return [*flags, *(_surprises(total) if compare else ())]


def noisy(draws: dict[str, dict[str, Any]]) -> Iterator[Flag]:
    """Heads whose gradient did not agree with itself with the most draws that were tried."""
    for head, found in draws.items():
        if found.get("cosine", 1.0) <= AGREEMENT:
            detail = f"{head}: gradients over {found['draws']} draws agree by a cosine of {found['cosine']:.2f} only"
            yield Flag("noisy-gradients", detail)


def blunter(total: AttackSummary, needs: Mapping[str, str]) -> Iterator[Flag]:
    """Samples that decisions broke where scores did not: a sign that the scores mislead. needs: of each stage."""
    stages = [stage for stage in total.standing if stage in needs]
    for before, stage in pairwise(stages):
        found = total.standing[before] - total.standing[stage]
        scored = any(needs[other] == "score" for other in stages[: stages.index(stage)])
        if scored and needs[stage] == "decision" and found > 0.002 * total.samples:
            yield Flag("decision-beats-scores", f"{stage}, given decisions, broke {found} samples that scores did not")


def _surprises(total: AttackSummary) -> Iterator[Flag]:
    """Samples that only a weaker kind of stage broke: a sign that the gradients of the stages before are hidden."""
    stages = [stage for stage in total.standing if "/" in stage]
    few = max(0.002 * total.samples, 2)
    for name in dict.fromkeys(stage.split("/")[0] for stage in stages):
        mine = [stage for stage in stages if stage.split("/")[0] == name]
        behind = total.standing[mine[0]] - total.standing[mine[-1]]
        if behind > few:
            yield Flag("masked-gradients", f"{name}: heads other than the true one broke {behind} more samples")
    for before, stage in pairwise(stages):
        found = total.standing[before] - total.standing[stage]
        white = any(total.cost[other]["backwards"] for other in stages[: stages.index(stage)])
        if white and not total.cost[stage]["backwards"] and found > 0.002 * total.samples:
            yield Flag("black-box-wins", f"{stage}, without gradients, broke {found} samples that gradients did not")

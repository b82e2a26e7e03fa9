"""What attacks must cost and can cost, counted from their knobs apart from their code, and the phases that they name.

A sample that survives has been attacked to the end: its passes are those of the whole plan. One that was broken left
early. So rows that were made with fewer steps, or broken rows that are called survivors, do not have the passes that
the recorded configuration gives.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.apgd_l1 import phases as phases_l1
from gauntlet.attacks.black_box.square import Square
from gauntlet.attacks.fab import FAB
from gauntlet.attacks.fgsm import FGSM
from gauntlet.attacks.gauntlet import Gauntlet
from gauntlet.attacks.md import MD
from gauntlet.attacks.patch_pgd import PatchPGD
from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.pma import PMA
from gauntlet.attacks.returning_iterates import earliest_return
from gauntlet.evaluation.evaluation import Evaluation, Stage
from gauntlet.threat_model.attack import revisions_of
from gauntlet.threat_model.mixture import MEMBERS

NEAR = 1e-3
"""Margin below which rounding may have told the attack that it had succeeded, so that a survivor left early."""


class PassPlan(NamedTuple):
    """Passes (`column`: which) of a sample that survives, from `least` to `most`; others have `most` at most."""

    column: str
    least: int
    most: int


Counter = Callable[[Any, str, int], PassPlan | None]
"""(attack, norm, classes) -> its plan, with one draw for a gradient."""


def plan_of(stage: Stage, run: Evaluation) -> PassPlan | None:
    """Return what a stage must cost; None where its attack states no plan, or chance decides when a sample leaves."""
    if run.rule is not None or run.victim.members or stage.head.name == MEMBERS:
        return None
    count = _PLANS.get(type(stage.attack))
    # Under a targeted goal FAB walks to one boundary, whatever the classes.
    classes = 2 if run.threat.targeted and isinstance(stage.attack, FAB) else run.classes
    plan = count(stage.attack, run.threat.norm, classes) if count else None
    if plan is None or plan.column == "forwards" or run.threat.unbounded:
        return plan if plan is not None and stage.head.draws == 1 and not run.threat.unbounded else None
    draws = stage.head.draws
    if isinstance(stage.attack, APGD) and draws > 1:
        draws = max(draws, stage.attack.draws)
    return PassPlan(plan.column, plan.least * draws, plan.most * draws)


def queries_beside(attack: Any) -> int:
    """Return how many forward passes without a gradient a sample may cost beside a plan of backward passes."""
    if isinstance(attack, PatchPGD):
        return attack.queries if attack.search == "score" else 0
    return attack.probe + 2 * max(attack.trial, attack.queries) if isinstance(attack, Gauntlet) else 0


def passes_vary(attack: Any, norm: str) -> bool:
    """Return whether survivors of one and the same result may have another number of passes.

    So it is where iterates return: rounding decides when, and runs of 0.1.0 did not look.
    """
    return isinstance(attack, PGD) and attack.may_return(norm)


def of_this_version(run: Evaluation, revisions: Mapping[str, int]) -> bool:
    """Return whether the attacks of this code are of the versions that a run was made by."""
    return dict(revisions) == revisions_of(run.attack[1], run.threat)


def pass_problems(row: Any, plan: PassPlan | None) -> Iterator[str]:
    """Yield a line where the passes of a row cannot be those of its attack."""
    if plan is None or row.error is not None:
        return
    spent = getattr(row, plan.column)
    if spent > plan.most:
        yield f"{spent} {plan.column}, but the attack makes at most {plan.most}"
    elif not row.broken and spent < plan.least and row.margin > NEAR:
        yield f"it survives with {spent} {plan.column}, but the attack makes at least {plan.least}"


def phases_of(attack: Any) -> tuple[str, ...]:
    """Return the phases that an attack names in its rows; empty: it names none."""
    if isinstance(attack, Gauntlet):
        kinds = dict.fromkeys((*attack.KINDS, *attack.L1_KINDS))
        return ("screen", "relaxed", "restart", *kinds, "sparse", "probe", "trial", "square")
    return ()


def _ranks(targets: int, classes: int) -> int:
    return max(1, min(targets, classes - 1))


def _backwards(count: int) -> PassPlan:
    return PassPlan("backwards", count, count)


def _run(steps: int, norm: str) -> int:
    """Return the gradients of one run of steps; under l1 the end of each ball has one more."""
    return sum(count + 1 for _, count in phases_l1(steps)) if norm == "l1" else steps


def _pgd(attack: PGD, norm: str, classes: int) -> PassPlan:
    runs, steps = attack.restarts * _ranks(attack.targets, classes), _run(attack.steps, norm)
    least = min(steps, earliest_return(steps)) if attack.may_return(norm) else steps
    return PassPlan("backwards", runs * least, runs * steps)


def _md(attack: MD, norm: str, classes: int) -> PassPlan:
    run = attack.diversify + _run(attack.steps - attack.diversify, norm)
    return _backwards(2 * run * attack.restarts * _ranks(attack.targets, classes))


def _apgd(attack: APGD, norm: str, classes: int) -> PassPlan:
    passes = _run(attack.steps, norm) if norm == "l1" else attack.steps + 1
    return _backwards(passes * attack.restarts * _ranks(attack.targets, classes))


def _fab(attack: FAB, norm: str, classes: int) -> PassPlan | None:
    if not attack.targets:  # a backward pass for each class whose boundary may be the nearest
        return _backwards(attack.steps * attack.restarts * (classes - 1))
    return _backwards(attack.steps * attack.restarts * _ranks(attack.targets, classes))


def _gauntlet(attack: Gauntlet, norm: str, classes: int) -> PassPlan:
    kinds, effort = (attack.L1_KINDS, attack.L1_EFFORT) if norm == "l1" else (attack.KINDS, 1)
    screen, lengths = _run(effort * attack.steps, norm), []
    for number in range(attack.rounds):
        cycle, place = divmod(number, len(kinds))
        diversify = attack.turns if kinds[place] == "turn" else 0
        lengths.append(_run(attack.round_steps * (1 + cycle), norm) + diversify)
    last = len(attack.SPARSE) * attack.SPARSE_EFFORT * attack.steps if norm == "l0" else 1
    if norm not in attack.RELAXED_NORMS:
        return PassPlan("backwards", screen + sum(lengths[:1]) + last, screen + sum(lengths) + last)
    relaxed = (1 + attack.RELAXED.most_gradients) * _ranks(attack.RIVALS, classes)  # one for the distance of each class
    return PassPlan("backwards", screen + last, screen + relaxed + sum(lengths) + last)


_PLANS: dict[type, Counter] = {
    FGSM: lambda attack, norm, classes: _backwards(1),
    PGD: _pgd,
    PatchPGD: lambda attack, norm, classes: PassPlan(  # of small images, whose places may be fewer
        "backwards", 1 + attack.steps * attack.restarts, 1 + attack.steps * attack.restarts * attack.locations
    ),
    PMA: lambda attack, norm, classes: _backwards(_run(attack.steps, norm) * len(attack.runs())),
    MD: _md,
    APGD: _apgd,
    FAB: _fab,
    Gauntlet: _gauntlet,
    Square: lambda attack, norm, classes: PassPlan("forwards", attack.queries, attack.queries),
}

"""Red flags that show only when runs of the same model are laid side by side."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gauntlet.leaderboard.run_metadata import GRADIENT, AttackRun, EntryFlag
from gauntlet.leaderboard.sample_verdicts import Bools
from gauntlet.metrics.ranking import mcnemar

WEAK = ("noise", "random", "fgsm", "square", "rays", "hop_skip_jump", "uap", "spgd", "sga")
"""Attacks that a stronger one should never lose to: one step, no gradient, or one perturbation for all images."""

STRONG = ("pgd", "pma", "apgd", "autoattack")

CLEAR = 0.002
"""A difference in the share of broken samples that is worth a flag, if it is also beyond noise (exact McNemar, 5 %)."""

HERE = "across runs"


@dataclass(frozen=True, eq=False)
class Aligned:
    """The verdicts of one run on the samples of an entry, bool [n]: broken includes those misclassified without an
    attack."""

    run: AttackRun
    clean_wrong: Bools
    broken: Bools
    complete: Bools
    by_true: Bools  # wrong without an attack, or broken through the deployed forward alone


def across(own: Sequence[Aligned], others: Sequence[Aligned]) -> Iterable[EntryFlag]:
    """Return flags of one entry. own: its runs, through declared heads or not; others: further runs of the same
    model."""
    declared = _by_attack(view for view in own if view.run.declared)
    true = _by_attack(view for view in own if not view.run.declared and view.run.access == GRADIENT)
    blind = _by_attack(view for view in own if view.run.access != GRADIENT)
    weak, strong = ([name for name in declared if _is(name, family)] for family in (WEAK, STRONG))
    for low, views in [
        *((name, declared[name]) for name in weak),
        *((views[0].run.column, views) for views in blind.values()),
    ]:
        for high in strong:
            if gap := _clearly_more(views, declared[high]):
                detail = f"{low} breaks {gap} of the samples more than {high}, which is stronger by design"
                yield EntryFlag("weaker-beats-stronger", f"{detail}: {high} misses examples that exist", HERE)
    for name in sorted(set(true) & set(declared)):
        if gap := _clearly_more(true[name], declared[name]):
            detail = f"{name} through the true head alone breaks {gap} of the samples more than through all heads"
            yield EntryFlag("true-head-wins", detail, HERE)
    yield from _smaller_eps(own, others, declared)
    yield from _moving(own)
    if declared and len(weak) == len(declared):
        yield EntryFlag("weak-attacks-only", f"nothing stronger than {', '.join(weak)} was run", HERE)


def _smaller_eps(
    own: Sequence[Aligned], others: Sequence[Aligned], declared: dict[str, list[Aligned]]
) -> Iterable[EntryFlag]:
    run = own[0].run
    smaller = [
        view
        for view in others
        if view.run.declared and view.run.data == run.data and view.run.threat.radius < run.threat.radius
    ]
    for eps in sorted({view.run.eps for view in smaller}):
        found = _by_attack(view for view in smaller if view.run.eps == eps)
        for name in sorted(set(found) & set(declared)):
            if gap := _clearly_more(found[name], declared[name]):
                detail = f"{name} breaks {gap} of the samples more at eps {eps} than at {run.eps}"
                yield EntryFlag("smaller-eps-wins", detail, HERE)


def _moving(own: Sequence[Aligned]) -> Iterable[EntryFlag]:
    """Return the same clean images, another prediction: randomness that the defense does not declare."""
    if any(view.run.randomized for view in own):
        return
    known = np.all([view.complete | view.broken for view in own], axis=0)
    wrong = np.array([view.clean_wrong for view in own])
    moved = int((wrong.any(0) & ~wrong.all(0) & known).sum())
    if moved:
        detail = f"{moved} clean predictions are right in one run, wrong in another; no randomness is declared"
        yield EntryFlag("undeclared-randomness", detail, HERE)


def _by_attack(views: Iterable[Aligned]) -> dict[str, list[Aligned]]:
    grouped: dict[str, list[Aligned]] = defaultdict(list)
    for view in views:
        grouped[view.run.attack].append(view)
    return dict(sorted(grouped.items()))


def _is(attack: str, family: Sequence[str]) -> bool:
    """Return whether an attack is one of the family or a variant, such as `pgd_cosine` of `pgd`."""
    return any(attack == name or attack.startswith((f"{name}_", f"{name}-")) for name in family)


def _clearly_more(suspect: Sequence[Aligned], better: Sequence[Aligned]) -> str:
    """Return how much more the first broke, in points; empty where that is not clear. Only samples that both
    decided."""
    broken = [np.any([view.broken for view in views], axis=0) for views in (suspect, better)]
    known = [np.all([view.complete | view.broken for view in views], axis=0) for views in (suspect, better)]
    both = known[0] & known[1]
    more = int((broken[0] & ~broken[1] & both).sum())
    less = int((~broken[0] & broken[1] & both).sum())
    share = (more - less) / max(1, int(both.sum()))
    clear = share > CLEAR and float(mcnemar(np.array(more), np.array(less))) <= 0.05
    return f"{100 * share:.1f} points" if clear else ""

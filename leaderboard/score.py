"""From evidence to entries: the worst case of every sample over all that was ever recorded against one model.

An entry is one victim on one selection of one data set under one threat. A sample counts as robust when its clean
prediction is right, no run broke it, and every run recorded it to the end: a missing record is not a pass.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gauntlet.leaderboard.collect import Evidence
from gauntlet.leaderboard.cross_run_flags import Aligned, across
from gauntlet.leaderboard.entry import AttackColumn, Board, Elsewhere, Entry, RunLine
from gauntlet.leaderboard.query_plot import queries
from gauntlet.leaderboard.randomized_entries import unranked_because
from gauntlet.leaderboard.ranking_floor import described, held_to
from gauntlet.leaderboard.robustness_curve_plot import curves, nearest_over
from gauntlet.leaderboard.run_metadata import GRADIENT, AttackRun, DataKey, EntryFlag, ThreatKey
from gauntlet.leaderboard.sample_facts import gathered
from gauntlet.leaderboard.sample_verdicts import Bools, Ints, locate
from gauntlet.metrics.gradient_masking import MASKED, HeadResults, Masking, masking
from gauntlet.metrics.perturbation_size import Spread
from gauntlet.metrics.randomized_result import TRUE, ExpectedAccuracy, RandomizedResult
from gauntlet.metrics.ranking import rank_intervals
from gauntlet.metrics.rejection import Rejection

EARLY = "it ended early, by what it had shown (stop_when.interval); ranks compare samples chosen beforehand"

PoolKey = tuple[str, str, str, float, float, str]
"""Data set, its digest, norm with the choice of targets, pixel box, victim: runs with equal keys speak of the same
model on the same images, and of the same goal."""


def pools(runs: Iterable[AttackRun]) -> list[list[AttackRun]]:
    """Return the runs that may speak of each other's samples, in a fixed order."""
    grouped: dict[PoolKey, list[AttackRun]] = defaultdict(list)
    for run in runs:
        box = run.threat.low, run.threat.high
        grouped[run.data.name, run.data.digest, run.threat.norm + run.threat.target, *box, run.victim].append(run)
    return [grouped[key] for key in sorted(grouped)]


def score(pool: Sequence[Evidence]) -> list[Entry]:
    """Return the entries of one pool; each sees the adversarial examples of all its runs."""
    grouped: dict[tuple[str, float], list[Evidence]] = defaultdict(list)
    for evidence in pool:
        grouped[evidence.run.data.selection, evidence.run.threat.radius].append(evidence)
    ended = [evidence for evidence in pool if not evidence.run.state]
    return [_entry(grouped[key], ended) for key in sorted(grouped)]


def boards(entries: Iterable[Entry], floor: str = "standard") -> list[Board]:
    """Return entries in tables, ranked inside each (exact McNemar tests over all pairs, Holm's adjustment, 5 %).

    floor: one of `gauntlet.leaderboard.ranking_floor.FLOORS`.
    """
    grouped: dict[tuple[DataKey, ThreatKey], list[Entry]] = defaultdict(list)
    for entry in entries:
        grouped[entry.data, entry.threat].append(entry)
    order = sorted(grouped, key=lambda key: (key[0].name, key[1].unbounded, -len(grouped[key]), key))  # fullest first
    return [_board([held_to(entry, floor) for entry in grouped[key]], floor) for key in order]


def _board(entries: list[Entry], floor: str) -> Board:
    ordered = sorted(entries, key=lambda e: (bool(e.reasons), e.unknown, -e.accuracy, e.defense, e.model, e.victim))
    ranked = [entry for entry in ordered if not entry.reasons]
    ids = _union([entry.robust_ids for entry in ordered])
    robust = np.array([locate(ids, entry.robust_ids)[1] for entry in ranked], bool).reshape(len(ranked), len(ids))
    placed = [replace(e, rank=rank) for e, rank in zip(ranked, rank_intervals(robust), strict=True)]
    first = ordered[0]
    eps = min((entry.eps for entry in entries), key=lambda text: (len(text), text))
    return Board(first.data, first.threat, eps, tuple(placed + ordered[len(ranked) :]), described(first.threat, floor))


def _entry(every: Sequence[Evidence], pool: Sequence[Evidence]) -> Entry:
    """Return the entry of these runs. pool: all runs of the same model and images that have ended."""
    first = every[0].run
    own = [evidence for evidence in every if not evidence.run.state]
    begun = [evidence for evidence in every if evidence.run.state]
    counted = [evidence for evidence in own if evidence.run.declared]
    ids = _union([evidence.ids for evidence in own])
    aligned = {evidence.run.place: _align(evidence, ids, first.threat.reach) for evidence in pool}
    beaten = np.sum([aligned[evidence.run.place].broken for evidence in counted], axis=0, dtype=np.int64)
    beaten = np.broadcast_to(beaten, ids.shape)
    inside = beaten > 0
    others = [evidence for evidence in pool if evidence not in counted]
    elsewhere = tuple(_elsewhere(evidence, first, aligned[evidence.run.place], inside) for evidence in others)
    broken = inside | np.any([aligned[e.run.place].broken for e in others] or [np.zeros(len(ids), bool)], axis=0)
    complete = np.all([aligned[e.run.place].complete for e in counted] or [np.zeros(len(ids), bool)], axis=0)
    robust = complete & ~broken
    n = max(len(ids), *(evidence.run.samples for evidence in own or begun))
    verdicts = [aligned[evidence.run.place] for evidence in own]
    wrong = np.any([each.clean_wrong for each in verdicts] or [np.zeros(len(ids), bool)], axis=0)
    randomized, left = _randomized(own), n - int(robust.sum()) - int(broken.sum())
    expected = randomized.accuracy(n) if randomized else None
    after = _history(counted, aligned)
    hidden = masking([_head_results(evidence, aligned[evidence.run.place]) for evidence in own], n, randomized)
    if expected.open if expected else left:
        hidden = None  # what a head leaves is not known
    return Entry(
        data=first.data,
        threat=first.threat,
        eps=min((evidence.run.eps for evidence in every), key=lambda text: (len(text), text)),
        victim=first.victim,
        defense=first.defense,
        model=first.model,
        n=n,
        known=len(ids),
        clean=int((~wrong).sum()),
        robust=int(robust.sum()),
        open=left,
        ids=ids,
        facts=gathered([*own, *(each for each in pool if each not in own)], ids),
        clean_wrong=wrong,
        robust_ids=ids[robust],
        broken_ids=ids[broken],
        runs=(
            *(_line(evidence, aligned[evidence.run.place], beaten, n, after) for evidence in own),
            *(_line(evidence, _align(evidence, evidence.ids[:0], 0.0), beaten[:0], n, {}) for evidence in begun),
        ),
        attacks=tuple(_attacks(own, verdicts, n)),
        elsewhere=tuple(each for each in elsewhere if each.lowered),
        flags=tuple(_flags(own, verdicts, [aligned[e.run.place] for e in others], hidden)),
        reasons=tuple(_reasons(first, own, counted, n)),
        curves=curves(pool, first.data.selection, ids),
        queries=queries(own),
        spread=_spread(pool, ids) if first.threat.unbounded else None,
        expected=expected,
        expected_clean=randomized.clean.accuracy() if randomized else None,
        masking=hidden,
        rejection=Rejection.among([evidence.rejection for evidence in own if evidence.rejection is not None]),
    )


def _union(several: Sequence[Ints]) -> Ints:
    """Return the union of ordered ids, ordered."""
    if not several:
        return np.zeros(0, np.int64)
    first, *more = several
    if all(np.array_equal(first, other) for other in more):  # as nearly always
        return first
    return np.unique(np.concatenate(several))


def _head_results(evidence: Evidence, view: Aligned) -> HeadResults:
    found: dict[str, int] = defaultdict(int)
    for stage in evidence.stages[1:]:
        found[stage.head] += stage.successes
    in_turn = evidence.run.manifest.get("coverage", "standing") == "standing"
    repeated = in_turn and sum(stage.head == TRUE for stage in evidence.stages) > 1
    return HeadResults(evidence.run.declared, found, repeated, view.broken, view.by_true)


def _align(evidence: Evidence, ids: Ints, reach: float) -> Aligned:
    """Return the verdicts of a run on these samples, judged by this reach; nothing is known of samples that it
    lacks."""
    if not len(evidence.ids):
        nothing = np.zeros(len(ids), bool)
        return Aligned(evidence.run, nothing, nothing, nothing, nothing)
    place: NDArray[np.intp] | slice = slice(None)
    there = np.ones(len(ids), bool)
    if not np.array_equal(ids, evidence.ids):
        place, there = locate(ids, evidence.ids)
    wrong = evidence.clean_wrong[place] & there
    broken = wrong | ((evidence.nearest_distance[place] <= reach) & there)
    by_true = wrong | (evidence.by_true[place] & there)
    return Aligned(evidence.run, wrong, broken, evidence.complete[place] & there, by_true)


def _elsewhere(evidence: Evidence, own: AttackRun, view: Aligned, inside: Bools) -> Elsewhere:
    run = evidence.run
    reasons = []
    if not run.declared:
        reasons.append(_less(run))
    if run.data.selection != own.data.selection:
        reasons.append(f"another selection of samples ({run.data.selection})")
    if run.threat.radius != own.threat.radius:
        size = "smaller" if run.threat.radius < own.threat.radius else "larger"
        reasons.append("measured without a bound" if run.threat.unbounded else f"{size} eps {run.eps}")
    return Elsewhere(run.place, ", ".join(reasons), int((view.broken & ~inside).sum()))


def _less(run: AttackRun) -> str:
    if run.access != GRADIENT:
        return f"attacked without gradients of the model (access={run.access})"
    return "attacked through the true head alone"


def _history(counted: Sequence[Evidence], aligned: Mapping[str, Aligned]) -> dict[str, int]:
    """Return the samples that stand after each counted run, in the order in which they ended."""
    after: dict[str, int] = {}
    broken: Bools | None = None
    for evidence in sorted(counted, key=lambda each: (each.run.manifest.get("finished") or "", each.run.place)):
        here = aligned[evidence.run.place].broken
        broken = here if broken is None else broken | here
        after[evidence.run.place] = int((~broken).sum())
    return after


def _line(evidence: Evidence, view: Aligned, beaten: Ints, n: int, after: Mapping[str, int]) -> RunLine:
    others = beaten - view.broken if evidence.run.declared else beaten
    expected = _expected([evidence], n)
    return RunLine(
        run=evidence.run,
        survivors=int((view.complete & ~view.broken).sum()),
        open=expected.open if expected else n - int((view.complete | view.broken).sum()),
        expected=expected,
        spread=_spread([evidence], evidence.ids),
        alone=int((view.broken & ~view.clean_wrong & (others == 0)).sum()),
        after=after.get(evidence.run.place),
        stages=evidence.stages,
        passes=evidence.passes,
        examples=evidence.examples,
        verification=evidence.verification,
        problems=evidence.problems,
        damaged=evidence.damaged,
    )


def _randomized(several: Sequence[Evidence]) -> RandomizedResult | None:
    return RandomizedResult.among([evidence.randomized for evidence in several if evidence.randomized is not None])


def _expected(several: Sequence[Evidence], n: int) -> ExpectedAccuracy | None:
    randomized = _randomized(several)
    return randomized.accuracy(n) if randomized else None


def _spread(runs: Sequence[Evidence], ids: Ints) -> Spread | None:
    """Return the quartiles of the distances over runs of which one at least has no eps; None without such a run."""
    if not len(ids) or not any(evidence.run.threat.unbounded for evidence in runs):
        return None
    return Spread.of(nearest_over(runs, ids))


def _attacks(own: Sequence[Evidence], verdicts: Sequence[Aligned], n: int) -> Iterable[AttackColumn]:
    grouped: dict[tuple[bool, str], list[tuple[Evidence, Aligned]]] = defaultdict(list)
    for evidence, view in zip(own, verdicts, strict=True):
        grouped[not view.run.declared, view.run.column].append((evidence, view))
    for true, column in sorted(grouped):
        runs, views = zip(*grouped[true, column], strict=True)
        broken = np.any([view.broken for view in views], axis=0)
        survivors = int((np.all([view.complete for view in views], axis=0) & ~broken).sum())
        expected = _expected(runs, n)
        left = expected.open if expected else n - survivors - int(broken.sum())
        ids = _union([evidence.ids for evidence in runs])
        yield AttackColumn(column, not true, len(views), survivors, left, expected, _spread(runs, ids))


def _flags(
    own: Sequence[Evidence], verdicts: Sequence[Aligned], others: Sequence[Aligned], hidden: Masking | None
) -> Iterable[EntryFlag]:
    sources: dict[tuple[str, str], list[str]] = defaultdict(list)
    for evidence in own:
        for flag in evidence.run.flags:
            if flag.name == MASKED and hidden is not None and hidden.index <= 0:
                continue  # another run broke through the true head alone what that one broke through others
            sources[flag.name, flag.detail].append(flag.source)
        check = evidence.verification
        if check.state == "failed":
            detail = f"{check.failed} of {check.checked} stored examples did not pass the independent check"
            sources["verification-failed", detail].append(evidence.run.place)
    yield from (EntryFlag(name, detail, ", ".join(places)) for (name, detail), places in sorted(sources.items()))
    if verdicts:
        yield from across(verdicts, others)


def _reasons(first: AttackRun, own: Sequence[Evidence], counted: Sequence[Evidence], n: int) -> Iterable[str]:
    if first.threat.unbounded:
        yield "it has no eps to rank at: its runs measure how far the attacker must go"
    if not own:
        yield "no run of it has ended"
    elif not counted:
        yield "no run attacks every head that the defense declares with gradients (heads=declared, access=gradient)"
    stopped = [evidence.run.manifest.get("stop_when") for evidence in own]
    if any(facts and facts["images"] < facts["of"] for facts in stopped):
        yield EARLY
    yield from unranked_because(first, _randomized(counted))
    for evidence in counted:
        for problem in evidence.problems:
            yield f"{evidence.run.place}: {problem}"
    if any(evidence.run.samples != n or len(evidence.ids) > n for evidence in own):
        yield "its runs do not agree on the number of samples"
    for evidence in counted[1:]:
        if len(evidence.ids) == len(counted[0].ids) and not np.array_equal(evidence.ids, counted[0].ids):
            yield f"{evidence.run.place}: it holds other samples than {counted[0].run.place}"

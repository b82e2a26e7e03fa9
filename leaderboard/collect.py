"""Reads the evidence of one run, chunk by chunk: what is kept is one small array per column of the verdict."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from gauntlet.errors import UserError, reason
from gauntlet.evidence.run_folder import find_runs
from gauntlet.leaderboard.run_metadata import AttackRun, read_run
from gauntlet.leaderboard.sample_facts import SampleFacts
from gauntlet.leaderboard.sample_verdicts import (
    AdversarialExample,
    Bools,
    Floats,
    Ints,
    StageTotals,
    Verdicts,
    judge,
    merge,
)
from gauntlet.leaderboard.verification_state import NO_VERDICTS, Fresh, Verification, read_verification
from gauntlet.metrics.randomized_result import RandomizedResult
from gauntlet.metrics.rejection import Rejection

EXAMPLES = 24
"""Adversarial examples remembered per run, from which an entry's page draws its examples."""


@dataclass(frozen=True)
class RunPasses:
    """Passes of the defended pipeline over all stages of a run, the clean prediction left out."""

    attacked: int
    forwards: int
    backwards: int
    survived: int
    survivor_forwards: int
    survivor_backwards: int


@dataclass(frozen=True, eq=False)
class Evidence:
    """The verdict of one run. Arrays are [samples that have a clean row], ordered by id.

    `nearest_distance` is the distance of the nearest candidate that counts, infinite where nothing was found;
    `complete` says that the sample was attacked to the end, or was broken before.
    """

    run: AttackRun
    ids: Ints
    clean_wrong: Bools
    nearest_distance: Floats
    complete: Bools
    by_true: Bools  # broken through the deployed forward alone
    facts: SampleFacts
    stages: tuple[StageTotals, ...]
    passes: RunPasses
    examples: tuple[AdversarialExample, ...]
    errors: int
    randomized: RandomizedResult | None  # of a randomized defense
    rejection: Rejection | None  # of a defense that rejects
    verification: Verification
    problems: tuple[str, ...]  # why the run does not count as whole
    damaged: tuple[str, ...]  # files that could not be read, as lines for the reader


@dataclass(frozen=True)
class DiscoveredRuns:
    """What lies in a runs folder: attack runs, folders of other kinds, and lines about what cannot be read."""

    runs: tuple[AttackRun, ...]
    other: int
    damaged: tuple[str, ...]


def discover(root: Path, folders: Sequence[Path] = ()) -> DiscoveredRuns:
    """Return every run below `root`, finished or not, ordered by folder. Reads manifests only.

    folders: of these alone, which lie below `root`; empty: all.

    Raises:
        UserError: there is no such folder.
    """
    for folder in folders or [root]:
        if not folder.is_dir():
            raise UserError(f"there is no runs folder {folder}; make a run first, or name the folder with --runs DIR")
    runs, damaged, other = [], [], 0
    for each in find_runs(*(folders or [root])):
        try:
            run = read_run(each, root)
        except UserError as cause:
            damaged.append(relative(str(cause), root))
            continue
        if run is None:
            other += 1
        else:
            runs.append(run)
    return DiscoveredRuns(tuple(runs), other, tuple(damaged))


def relative(line: str, root: Path) -> str:
    """Return a line without the place of the runs folder in it, so that the site does not depend on where that is."""
    return line.replace(f"{root}{os.sep}", "")


def collect(run: AttackRun, root: Path, fresh: Fresh = NO_VERDICTS) -> Evidence:
    """Stream the parts of a run. A part that cannot be read is reported, and its samples count as missing.

    fresh: verdicts of a moment ago.
    """
    damaged: list[str] = []
    chunks: list[Verdicts] = []
    examples: list[AdversarialExample] = []
    drawn: list[RandomizedResult] = []
    rejected: list[Rejection] = []
    seen = sorted(run.folder.present())
    for chunk in seen:
        try:
            table = run.folder.read_part(chunk)
        except (UserError, OSError, pa.ArrowException, ValueError) as cause:
            damaged.append(relative(reason(cause), root))
            continue
        verdicts = judge(table, run.stages, run.threat.reach)
        chunks.append(replace(verdicts, counted=verdicts.counted[:0]))
        drawn += filter(None, [RandomizedResult.of(table)])
        rejected += filter(None, [Rejection.of(table)])
        examples += verdicts.examples(table, chunk, EXAMPLES - len(examples))
    verification = read_verification(run.folder, run.place, damaged, fresh)
    return _evidence(
        run, merge(chunks, run.stages), examples, RandomizedResult.among(drawn), Rejection.among(rejected), seen,
        verification, damaged,
    )  # fmt: skip


def _evidence(
    run: AttackRun,
    all_: Verdicts,
    examples: list[AdversarialExample],
    randomized: RandomizedResult | None,
    rejection: Rejection | None,
    seen: list[int],
    verification: Verification,
    damaged: list[str],
) -> Evidence:
    return Evidence(
        run=run,
        ids=all_.ids,
        clean_wrong=all_.clean_wrong,
        nearest_distance=all_.nearest_distance,
        complete=all_.complete,
        by_true=all_.by_true,
        facts=SampleFacts(all_.label, all_.reached, all_.clean_margin),
        stages=tuple(StageTotals.of(name, row) for name, row in zip(run.stages, all_.totals.tolist(), strict=True)),
        passes=RunPasses(*all_.spent.tolist()),
        examples=tuple(examples),
        errors=all_.errors,
        randomized=randomized,
        rejection=rejection,
        verification=verification,
        problems=tuple(_problems(run, all_, seen, damaged)),
        damaged=tuple(damaged),
    )


def _problems(run: AttackRun, verdicts: Verdicts, seen: list[int], damaged: list[str]) -> Iterable[str]:
    missing = run.chunks - sum(chunk < run.chunks for chunk in seen)
    lacking = run.samples - int(verdicts.complete.sum())
    if run.status != "done":
        yield f"it is {run.state}" if run.state else f"its status is {run.status}"
    if missing:
        yield f"{missing} of {run.chunks} chunks are missing"
    if damaged:
        yield f"{len(damaged)} of its files cannot be read"
    if verdicts.errors:
        yield f"{verdicts.errors} rows carry an error"
    if lacking > 0 and not (missing or damaged):
        yield f"{lacking} samples lack records"
    if lacking < 0 or any(chunk >= run.chunks for chunk in seen):
        yield "it holds more records than it declares"
    if verdicts.repeated:
        yield f"{verdicts.repeated} rows are repeated"
    if verdicts.unknown:
        yield f"{verdicts.unknown} rows name a stage that the run does not declare"
    if verdicts.outside:
        yield f"{verdicts.outside} adversarial examples lie outside the threat and do not count"

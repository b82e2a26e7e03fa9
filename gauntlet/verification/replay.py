"""The recorded attack run again on some samples, survivors and broken alike, and its rows compared.

Draws are functions of seed, stage and sample, so a sample can be attacked without its batch-mates. Their number can
change how sums round; where rows differ by more than rounding, the whole chunk is run again as it was recorded, in the
same batches, before anything is called a problem. An attack that compares samples is re-run chunk by chunk.
"""

import math
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.gradient_draws import settled
from gauntlet.evaluation.universal_fit import fitted
from gauntlet.evidence.digest import records_digest
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.jobs.attack_job import draws_of, probed_survivors
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.sanity_checks import PROBE, of_victim
from gauntlet.system import provenance
from gauntlet.threat_model.attack import compares
from gauntlet.transfer.precomputed import PrecomputedTransfer
from gauntlet.verification.attack_evidence import chunk_places, who
from gauntlet.verification.crafted_sets import set_problems
from gauntlet.verification.pass_plans import of_this_version, passes_vary
from gauntlet.verification.report import Replayed, Report
from gauntlet.verification.row_checks import Key, entries
from gauntlet.verification.sampling import Amount, in_order

ROUNDING = 1e-3
"""Margins and distances of a row may differ in two batches by this share of themselves, or of 1 where that is more."""

EXACT = ("label", "clean_pred", "broken", "error")
"""Columns that rounding leaves alone."""


def replay_attack(
    report: Report, run: RunFolder, job: AttackSetup, manifest: Manifest, amount: Amount, nonce: str
) -> None:
    """Re-run an attack on samples that hash and nonce choose, and enter what differs into the report.

    Args:
        job: rebuilt, with BN-fused copies where the run had them.
    """
    if not of_this_version(job.evaluation, manifest.get("revisions", {})):
        recorded = manifest.get("revisions") or "the first"
        report.notes.append(f"nothing was re-run: another version of the attack made the run ({recorded})")
        return
    coverage = job.evaluation.coverage
    pools = {chunk: _attacked(run.read_part(chunk).to_pandas(), coverage) for chunk in sorted(run.present())}
    done = report.replayed = Replayed(total=sum(map(len, pools.values())), nonce=nonce)
    if job.evaluation.given == "transfer" and (gone := _missing_sets(job.evaluation)):
        report.notes.append(f"nothing was re-run: the adversarial set {gone[0]} is not there; put it back, or --set it")
        report.replayed = None
        return
    whole = amount.full or compares(job.evaluation.attack[1])
    chosen = _chosen(pools, amount, records_digest(run), nonce, whole)
    if compares(job.evaluation.attack[1]):
        done.units, done.all_units = len(chosen), sum(bool(pool) for pool in pools.values())
    varying = {stage.name for stage in job.evaluation.stages if passes_vary(stage.attack, job.evaluation.threat.norm)}
    with _ready(report, run, job, manifest, amount) as evaluation:
        again = {} if whole else _alone(job, evaluation, [sample for ids in chosen.values() for sample in ids])
        for chunk, ids in chosen.items():
            done.samples += len(ids)
            wanted = _rows(run.read_part(chunk).to_pandas(), ids)
            found = {key: row for key, row in again.items() if key[0] in set(ids)}
            if whole or _differing(
                wanted, found, varying
            ):  # rounding, or a forgery: the chunk as it was recorded tells
                found = _rows(_again(job, evaluation, list(chunk_places(job, chunk).values())), ids)
            done.rows += len(wanted)
            done.equal += sum(_same(row, found.get(key)) for key, row in wanted.items())
            hint = _elsewhere(manifest, job)
            lines = _differing(wanted, found, varying)
            report.problems += [f"{who(key)}: re-run, {line}{hint}" for key, line in lines.items()]
        anew = [sample for ids in chosen.values() for sample in ids]
        report.problems += [line + _elsewhere(manifest, job) for line in set_problems(job, anew)]
        report.problems += _flag_problems(run, job, evaluation, manifest)


def _alone(job: AttackSetup, evaluation: Evaluation, samples: Sequence[int]) -> dict[Key, Any]:
    """Return the rows of samples that are attacked together, whatever their chunks, as many at once as a chunk has."""
    place = {int(sample): at for at, sample in enumerate(job.split.ids)}
    found: dict[Key, Any] = {}
    size = job.manifest["chunk"]
    for start in range(0, len(samples), size):
        ids = samples[start : start + size]
        found |= _rows(_again(job, evaluation, [place[sample] for sample in ids]), ids)
    return found


def _attacked(table: pd.DataFrame, coverage: str) -> list[int]:
    """Return the samples of a chunk that stages attack."""
    clean = table[table["stage"] == CLEAN_STAGE]
    mine = clean if coverage == "all" else clean[~clean["broken"]]
    return sorted({int(sample) for sample in mine["sample"]})


def _chosen(pools: dict[int, list[int]], amount: Amount, records: str, nonce: str, whole: bool) -> dict[int, list[int]]:
    """Return the samples to re-run, by chunk; whole: all those of as many chunks as hold enough."""
    wanted = amount.among(sum(map(len, pools.values())))
    found: dict[int, list[int]] = {}
    if whole:
        for chunk in in_order((chunk for chunk, pool in pools.items() if pool), records, nonce):
            if sum(map(len, found.values())) >= wanted:
                break
            found[chunk] = pools[chunk]
        return found
    home = {sample: chunk for chunk, pool in pools.items() for sample in pool}
    for sample in in_order(home, records, nonce)[:wanted]:
        found.setdefault(home[sample], []).append(sample)
    return {chunk: sorted(ids) for chunk, ids in sorted(found.items())}


@contextmanager
def _ready(
    report: Report, run: RunFolder, job: AttackSetup, manifest: Manifest, amount: Amount
) -> Iterator[Evaluation]:
    """Give the evaluation as it was recorded: draws measured again, universal perturbations in place."""
    draws = draws_of(job)
    if draws != manifest.get("draws", {}):
        report.problems.append(
            f"run.json: draws is {manifest.get('draws')}, measured again {draws}" + _elsewhere(manifest, job)
        )
    evaluation = replace(job.evaluation, victim=settled(job.evaluation.victim, draws))
    if isinstance(evaluation.attack[1], PrecomputedTransfer) and not job.crafters:
        report.notes.append("candidates were taken from sets made elsewhere; crafting them was not repeated")
    if job.train is None:
        yield evaluation
        return
    with tempfile.TemporaryDirectory() as scratch:
        cache, facts = Path(scratch), manifest.get("fit", {})
        kept = job.setup.request.runs_dir / "_universal"
        for fit in facts.values():
            name = Path(str(fit.get("file", ""))).name
            if not amount.full and name and (kept / name).is_file():
                shutil.copy(kept / name, cache / name)
                report.notes.append(f"the universal perturbation was taken from {name}; fitting it was not repeated")
        evaluation, found = fitted(evaluation, job.train, manifest["victim"], cache, False)
        for stage, fit in found.items():
            if facts.get(stage, {}).get("digest") != fit["digest"]:
                report.problems.append(
                    f"run.json: the universal perturbation of {stage} is another one" + _elsewhere(manifest, job)
                )
        yield evaluation


def _missing_sets(evaluation: Evaluation) -> list[str]:
    stages = evaluation.attack[1]
    assert isinstance(stages, PrecomputedTransfer)
    return [str(each.path) for each in stages.stages.values() if not (Path(str(each.path)) / "set.json").is_file()]


def _again(job: AttackSetup, evaluation: Evaluation, positions: list[int]) -> pd.DataFrame:
    frame: pd.DataFrame = evaluate_chunk(evaluation, job.split.read(positions)).rows.to_pandas()
    return frame


def _rows(table: pd.DataFrame, ids: Sequence[int]) -> dict[Key, Any]:
    tidy = table[table["sample"].isin(ids)]
    tidy = tidy.astype(object).where(tidy.notna(), None)
    return {(int(row.sample), str(row.stage)): row for row in entries(tidy)}


def _differing(wanted: dict[Key, Any], found: dict[Key, Any], varying: Collection[str]) -> dict[Key, str]:
    """Return for each row that differs by more than rounding how it does; varying: stages whose passes may."""
    lines = dict.fromkeys(wanted.keys() - found.keys(), "there is no such row")
    lines |= dict.fromkeys(found.keys() - wanted.keys(), "there is one more row")
    for key in wanted.keys() & found.keys():
        if line := _difference(wanted[key], found[key], key[1] in varying):
            lines[key] = line
    return dict(sorted(lines.items()))


def _difference(row: Any, again: Any, varying: bool) -> str:
    """Return how a row differs from its re-run; empty: not beyond rounding.

    Of a broken sample the step at which it fell may differ by rounding; its stored example shows that it fell.

    varying: whether the passes of a survivor may differ too; its margin tells whether it is the same.
    """
    for column in EXACT:
        if getattr(row, column) != getattr(again, column):
            return f"{column} is {getattr(again, column)}, the record says {getattr(row, column)}"
    if row.broken:
        return ""
    for column in ("pred",) if varying else ("backwards", "pred"):
        if getattr(row, column) != getattr(again, column):
            return f"{column} is {getattr(again, column)}, the record says {getattr(row, column)}"
    for column in ("margin", "distance"):
        recorded, found = getattr(row, column), getattr(again, column)
        if not math.isclose(recorded, found, rel_tol=ROUNDING, abs_tol=ROUNDING):
            return f"{column} is {found:.6g}, the record says {recorded:.6g}"
    return ""


def _same(row: Any, again: Any) -> bool:
    """Return whether all columns of two rows are equal to the last bit."""
    return again is not None and _plain(row) == _plain(again)


def _plain(row: Any) -> dict[str, Any]:
    """Return the columns of a row; parameters as a tuple, since arrays have no single answer to whether they are
    equal."""
    return {name: tuple(value) if isinstance(value, np.ndarray) else value for name, value in row._asdict().items()}


def _elsewhere(manifest: Manifest, job: AttackSetup) -> str:
    """Return what to say where the run was made with other versions or on another device; empty: it was not."""
    here = provenance.versions()
    recorded = manifest.get("versions", {})
    odd = [f"{name} {recorded.get(name)}, here {here[name]}" for name in here if recorded.get(name) != here[name]]
    if manifest["device"] != (device := provenance.describe(job.evaluation.device)):
        odd.append(f"{manifest['device']}, here {device}")
    return f" (the run states {odd[0]}: check it there before calling it forged)" if odd else ""


def _flag_problems(run: RunFolder, job: AttackSetup, evaluation: Evaluation, manifest: Manifest) -> Iterator[str]:
    """Yield a line for each red flag of the model that the manifest does not have."""
    shown = {flag["name"] for flag in manifest.get("flags", [])}
    probe = job.split.read(slice(0, min(len(job.split), PROBE)))
    for flag in of_victim(evaluation, probe, probed_survivors(run, job.manifest)):
        if flag.name not in shown:
            yield f"run.json: the red flag {flag.name} is missing: {flag.detail}{_elsewhere(manifest, job)}"

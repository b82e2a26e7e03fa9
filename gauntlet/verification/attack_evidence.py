"""The rows and stored examples of an attack, chunk by chunk, held against data, defense and threat.

Shares no code with the attacks or their judge: distances are measured in NumPy, and predictions made in another batch
composition.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE, PARAMETERS, PHASE, TARGET
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.metrics.attack_summary import AttackSummary, summarize
from gauntlet.sanity_checks import decisions_beat_scores, from_evidence, noisy_gradients
from gauntlet.threat_model.access import TRANSFER
from gauntlet.verification.pass_plans import PassPlan, of_this_version, pass_problems, phases_of, plan_of
from gauntlet.verification.report import Report
from gauntlet.verification.repredict import other_targets, repeated
from gauntlet.verification.row_checks import (
    Key,
    attempts,
    claims,
    distance_of,
    entries,
    order_problems,
    reach_of,
    row_problems,
    stored_keys,
)
from gauntlet.verification.transformed_examples import parameter_problems, transformed_distance

BATCH = 37
"""Images per prediction; not a size that an attack is likely to have used."""


def check_rows_and_examples(report: Report, run: RunFolder, job: AttackSetup, manifest: Manifest) -> None:
    """Enter into the report what is wrong with any chunk, and with the totals in the manifest."""
    present, wanted = run.present(), set(range(job.manifest["chunks"]))
    report.problems += [f"chunk {chunk}: its records are missing" for chunk in sorted(wanted - present)]
    report.problems += [f"chunk {chunk}: the run has no such chunk" for chunk in sorted(present - wanted)]
    report.problems += _strays(run, wanted)
    for chunk in sorted(present & wanted):
        try:
            _check_chunk(report, run, chunk, job, manifest)
        except UserError as cause:
            report.problems.append(f"chunk {chunk}: {cause}")
    if present == wanted and not report.problems:
        report.problems += _total_problems(job, manifest, summarize(run, job.manifest["stages"]))
    plans = _plans(job, manifest)
    unplanned = [name for name, plan in plans.items() if plan is None]
    if unplanned:
        names = ", ".join(unplanned[:4]) + (f" and {len(unplanned) - 4} more" if len(unplanned) > 4 else "")
        report.notes.append(f"pass counts are as the run states them, since no plan fixes them: {names}")


def chunk_places(job: AttackSetup, chunk: int) -> dict[int, int]:
    """Return the samples of a chunk with their positions in the split."""
    size = job.manifest["chunk"]
    return {int(job.split.ids[at]): at for at in range(len(job.split))[chunk * size : (chunk + 1) * size]}


def _total_problems(job: AttackSetup, manifest: Manifest, total: AttackSummary) -> Iterator[str]:
    """Yield a line for each total or red flag in the manifest that the records do not give."""
    stated: Any = manifest.get("cost", {})
    given: Any = total.cost
    for stage, cost in given.items():
        for key in ("attacked", "forwards", "backwards"):
            found = stated.get(stage, {}).get(key)
            if found != cost[key]:
                yield f"run.json: cost.{stage}.{key} is {found}, the records give {cost[key]}"
    needs = {stage.name: stage.attack.needs for stage in job.evaluation.stages}
    shown = {flag["name"] for flag in manifest.get("flags", [])}
    due = [
        *noisy_gradients(manifest.get("draws", {})),
        *from_evidence(total, compare=job.evaluation.given != TRANSFER),
        *decisions_beat_scores(total, needs),
    ]
    yield from (
        f"run.json: the red flag {flag.name} is missing: {flag.detail}" for flag in due if flag.name not in shown
    )
    if sorted(total.errors) != sorted(manifest.get("failures", [])):
        yield "run.json: its failures are not those of the records"


def _strays(run: RunFolder, wanted: set[int]) -> Iterator[str]:
    known = {run.adversarial_path(chunk) for chunk in wanted}
    for path in sorted(run.path.glob("adversarial/part-*.safetensors")):
        if path not in known:
            yield f"{path.name}: adversarial examples of no chunk of this run"


def _check_chunk(report: Report, run: RunFolder, chunk: int, job: AttackSetup, manifest: Manifest) -> None:
    stages, place = job.manifest["stages"], chunk_places(job, chunk)
    positions = list(place.values())
    table = run.read_part(chunk).to_pandas()
    report.problems += row_problems(
        table, list(place), stages, reach_of(job.manifest["threat"]), job.evaluation.coverage
    )
    report.problems += (f"chunk {chunk}: {line}" for line in order_problems(table, stages))
    report.problems += _pass_problems(table, job, _plans(job, manifest))
    errors = int(table["error"].notna().sum())
    if errors and manifest["status"] == "done":
        report.problems.append(f"chunk {chunk}: {errors} rows have an error, yet the run is called done")
    if job.evaluation.threat.targeted != (TARGET.name in table):
        report.problems.append(f"chunk {chunk}: a run has targets where its attack is targeted, and only there")
        return
    if job.evaluation.threat.parametric != (PARAMETERS.name in table):
        report.problems.append(f"chunk {chunk}: a run has parameters where its threat has them, and only there")
        return
    if job.evaluation.threat.parametric:
        wrong = ((key, line) for key, row in attempts(table).items() for line in parameter_problems(row))
        report.problems += [f"{who(key)}: {line}" for key, line in wrong]
    _check_clean(report, table, place, job)
    mine = claims(table)
    known = attempts(table) if report.keep.every else mine
    report.claimed += len(mine)
    about = set(report.keep.of_chunk(job.split.ids[positions], positions[0]).tolist())
    if not about and not run.adversarial_path(chunk).exists():
        return
    due = [key for key in known if key[0] in about]
    try:
        stored = _stored(run, chunk)
        keys = stored_keys(stored, stages, tuple(job.split.read(positions[:1]).x.shape[1:]))
    except ValueError as cause:
        report.problems.append(f"chunk {chunk}: {run.adversarial_path(chunk).name} is not sound: {cause}")
        return
    index = {key: number for number, key in enumerate(keys)}
    if len(index) < len(keys):
        report.problems.append(f"chunk {chunk}: {len(keys) - len(index)} adversarial examples are stored twice")
    odd = [(key, "no adversarial example is stored") for key in due if key not in index]
    odd += [(key, "an adversarial example is stored, but its row does not say broken") for key in set(index) - {*known}]
    report.problems += [f"{who(key)}: {line}" for key, line in sorted(odd)]
    report.shown += len(mine.keys() & index.keys())
    found = [(key, known[key], number) for key, number in index.items() if key in known and key[0] in place]
    for start in range(0, len(found), BATCH):
        _check_examples(report, found[start : start + BATCH], stored, place, job)


def _plans(job: AttackSetup, manifest: Manifest) -> dict[str, PassPlan | None]:
    """Return the plan of each stage; none where another version of the attack made the run."""
    same = of_this_version(job.evaluation, manifest.get("revisions", {}))
    return {stage.name: plan_of(stage, job.evaluation) if same else None for stage in job.evaluation.stages}


def _pass_problems(table: pd.DataFrame, job: AttackSetup, plans: dict[str, PassPlan | None]) -> Iterator[str]:
    """Yield a line for each row whose passes or phase its attack does not give."""
    stages = {stage.name: stage for stage in job.evaluation.stages}
    known = {name: phases_of(stage.attack) for name, stage in stages.items()}
    tidy = table.assign(error=table["error"].astype(object).where(table["error"].notna(), None))
    for row in entries(tidy):
        about, phase = who((row.sample, row.stage)), getattr(row, PHASE.name, None)
        phase = None if pd.isna(phase) else phase
        if row.stage == CLEAN_STAGE and (row.forwards, row.backwards, row.distance, phase) != (0, 0, 0, None):
            yield f"{about}: a clean row has passes, a distance or a phase"
        elif row.stage in stages:
            yield from (f"{about}: {line}" for line in pass_problems(row, plans[row.stage]))
            if phase not in (known[row.stage] or (None,)) and row.error is None:
                yield f"{about}: its attack has no phase {phase}"


def _check_clean(report: Report, table: pd.DataFrame, place: dict[int, int], job: AttackSetup) -> None:
    """Repeat the prediction of every clean image of a chunk."""
    rows = {int(row.sample): row for row in entries(table[table["stage"] == CLEAN_STAGE])}
    at = list(place.values())
    for start in range(0, len(at), BATCH):
        batch: Batch = job.split.read(at[start : start + BATCH])
        again = repeated(job.evaluation, batch.x, batch.ids, batch.y, clean=True)
        for n, (sample, label, pred) in enumerate(zip(batch.ids.tolist(), batch.y.tolist(), again.pred, strict=True)):
            report.samples += 1
            row = rows.get(sample)
            if row is not None and (row.label, row.clean_pred, row.pred) != (label, pred, pred):
                report.problems.append(
                    f"sample {sample} (clean): label {label} and prediction {pred}, the record says {row.label} and "
                    f"{row.clean_pred if row.clean_pred != pred else row.pred}"
                )
            if row is not None:
                lines = [*again.lines(n, row, job.evaluation.protocol.draws), *_target_lines(job, row, batch, n)]
                report.problems += [f"sample {sample} (clean): {line}" for line in lines]


def _target_lines(job: AttackSetup, row: Any, batch: Batch, place: int) -> Iterator[str]:
    """Yield a line where the target of a clean row is not that which the threat chooses for its image."""
    if not job.evaluation.threat.targeted:
        return
    one = slice(place, place + 1)
    if not 0 <= row.target < job.evaluation.classes:
        yield f"there is no class {row.target}, its target"
    elif other_targets(job.evaluation, batch.x[one], batch.ids[one], batch.y[one], np.array([row.target])).any():
        yield f"the target is {row.target}, which threat.target={job.evaluation.threat.target} does not choose"


def _check_examples(
    report: Report,
    found: Sequence[tuple[Key, Any, int]],
    stored: dict[str, NDArray[Any]],
    place: dict[int, int],
    job: AttackSetup,
) -> None:
    at = [number for _, _, number in found]
    z, x = stored["z"][at], stored["x"][at]
    clean = job.split.read([place[key[0]] for key, _, _ in found])
    target = np.array([row.target for _, row, _ in found]) if job.evaluation.threat.targeted else None
    again = repeated(job.evaluation, torch.from_numpy(z.copy()), clean.ids, clean.y, target)
    for n, ((key, row, _), pred) in enumerate(zip(found, again.pred, strict=True)):
        label, lines = int(clean.y[n]), list(again.lines(n, row, job.evaluation.protocol.draws))
        report.checked += 1
        if clean.x[n].numpy().tobytes() != x[n].tobytes():
            lines.append("the image it starts from is not the data set's")
        if label != row.label:
            lines.append(f"the label is {label}, the record says {row.label}")
        if job.evaluation.threat.parametric:
            distance, why = transformed_distance(row, z[n], clean.x[n], job.evaluation.threat)
        else:
            distance, why = distance_of(z[n], clean.x[n].numpy(), job.manifest["threat"])
        if why:
            lines.append(why)
        elif abs(distance - row.distance) > 1e-6 * max(1.0, distance):
            lines.append(f"distance {distance:.8g}, the record says {row.distance:.8g}")
        if row.broken and pred == label:
            lines.append(f"the defense predicts the true class {pred}")
        elif pred != row.pred:
            lines.append(f"the defense predicts {pred}, the record says {row.pred}")
        report.problems += [f"{who(key)}: {line}" for line in lines]


def who(key: Key) -> str:
    """Return how a line names a row."""
    return f"sample {key[0]} ({key[1]})"


def _stored(run: RunFolder, chunk: int) -> dict[str, NDArray[Any]]:
    try:
        return run.read_examples(chunk)
    except FileNotFoundError:
        raise ValueError("it is missing") from None

"""Certificates held against data, defense and threat: ids, labels, predictions, and radii computed anew from counts.

Bounds on shares are computed by another routine than the certifier's. On request some images are certified again.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from gauntlet.certification.attribution import Attribution
from gauntlet.certification.auto_lirpa import AutoLirpa
from gauntlet.certification.certifier import ABSTAIN
from gauntlet.certification.claimed import Claimed
from gauntlet.certification.linear_bounds import LinearBounds
from gauntlet.certification.mixing_bounds import MixingBounds
from gauntlet.certification.partition_votes import PartitionVotes, partition_votes
from gauntlet.certification.patches import Patches
from gauntlet.certification.poisoning import Poisoning
from gauntlet.certification.sequential_test import Stopping, floored
from gauntlet.certification.smoothing import Smoothing
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.evaluation.certification import STAGE
from gauntlet.evidence.digest import records_digest
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.jobs.certification_job import CertificationSetup
from gauntlet.metrics.certificate_summary import summary
from gauntlet.threat_model.rng import Rng
from gauntlet.verification.attribution_evidence import attribution_difference, attribution_problems
from gauntlet.verification.report import Replayed, Report
from gauntlet.verification.row_checks import entries
from gauntlet.verification.sampling import Amount, in_order
from gauntlet.verification.vote_bounds import look_bounds

CLOSE = 1e-9
"""Relative error of a bound on a share that two routines may have."""

BATCH = 37
"""Images per prediction."""

VOTES = 0.002
"""Share of the votes of an image that rounding may turn where it is certified in another batch."""

ROUNDED = 1e-2
"""Share by which margins may differ: versions of the bounds charge their own rounding to them by more or less."""


def check_certificates(report: Report, run: RunFolder, job: CertificationSetup, manifest: Manifest) -> None:
    """Enter into the report what is wrong with any certificate of a run."""
    present, wanted = run.present(), set(range(job.manifest["chunks"]))
    report.problems += [f"chunk {chunk}: its records are missing" for chunk in sorted(wanted - present)]
    report.problems += [f"chunk {chunk}: the run has no such chunk" for chunk in sorted(present - wanted)]
    for chunk in sorted(present & wanted):
        try:
            table = _table(run, chunk)
            report.problems += _chunk_problems(report, table, chunk, job, manifest)
            report.problems += attribution_problems(run, table, chunk, job)
        except UserError as cause:
            report.problems.append(f"chunk {chunk}: {cause}")
    if present == wanted and not report.problems:
        report.problems += _total_problems(run, manifest)
    certifier = job.work.certifier[1]
    if isinstance(certifier, Claimed | AutoLirpa):
        report.foreign = certifier.origin
    elif not isinstance(certifier, Smoothing | LinearBounds | Patches | Poisoning | Attribution):
        report.notes.append(f"no rule is known by which radii of {type(certifier).__name__} could be computed anew")
    elif not isinstance(certifier, Smoothing | Attribution):
        report.notes.append("bounds are as the run states them, where nothing was re-run")


def replay_certificates(report: Report, run: RunFolder, job: CertificationSetup, amount: Amount, nonce: str) -> None:
    """Certify samples that hash and nonce choose anew, and enter what differs into the report."""
    home = {int(sample): chunk for chunk in sorted(run.present()) for sample in _table(run, chunk)["sample"]}
    chosen = sorted(in_order(home, records_digest(run), nonce)[: amount.among(len(home))])
    done = report.replayed = Replayed(samples=len(chosen), total=len(home), nonce=nonce)
    for chunk in sorted({home[sample] for sample in chosen}):
        mine, table = [sample for sample in chosen if home[sample] == chunk], _table(run, chunk)
        wanted, found = _rows(table, mine), _rows(_again(job, chunk, mine), mine)
        if len(mine) < len(table) and any(_difference(wanted[sample], found[sample]) for sample in mine):
            found = _rows(_again(job, chunk, [int(sample) for sample in table["sample"]]), mine)
        done.rows += len(mine)
        done.equal += sum(_plain(wanted[sample]) == _plain(found[sample]) for sample in mine)
        for sample in mine:
            if line := _difference(wanted[sample], found[sample]):
                report.problems.append(f"sample {sample}: certified anew, {line}")


def _table(run: RunFolder, chunk: int) -> pd.DataFrame:
    table: pd.DataFrame = run.read_part(chunk).to_pandas()
    if "radius" not in table.columns:
        raise UserError(f"{run.part_path(chunk)} holds no certificates; run again")
    return table


def _chunk_problems(
    report: Report, table: pd.DataFrame, chunk: int, job: CertificationSetup, manifest: Manifest
) -> Iterator[str]:
    """Yield a line for each thing wrong with the certificates of a chunk."""
    size = job.manifest["chunk"]
    batch = job.setup.split.read(list(range(len(job.setup.split))[chunk * size : (chunk + 1) * size]))
    ids = batch.ids.tolist()
    recorded = [int(sample) for sample in table["sample"]]
    if sorted(recorded) != sorted(ids):
        yield f"chunk {chunk}: its samples are not the {len(ids)} of this chunk, each once"
        return
    if table["error"].notna().any() and manifest["status"] == "done":
        yield f"chunk {chunk}: rows have an error, yet the run is called done"
    place = {sample: at for at, sample in enumerate(ids)}
    bounded = isinstance(job.work.certifier[1], LinearBounds | Attribution)
    scores = _scores(job, batch) if bounded else np.zeros((len(ids), 0))
    for row in entries(table):
        at = place[int(row.sample)]
        report.samples += 1
        report.claimed += bool(row.radius > 0)
        for line in _row_problems(row, int(batch.y[at]), scores[at], batch.x[at : at + 1], job):
            yield f"sample {row.sample}: {line}"


def _scores(job: CertificationSetup, batch: Batch) -> np.ndarray:
    """Return the deployed scores [n, K] of images."""
    victim, device, found = job.setup.target.victim, job.work.device, []
    with torch.no_grad():
        for at in range(0, len(batch.ids), BATCH):
            ids = batch.ids[at : at + BATCH].to(device)
            scores = victim.predict(batch.x[at : at + BATCH].to(device), Rng(job.work.seed, ids, STAGE))
            found.append(scores.double().cpu().numpy())
    return np.concatenate(found)


def _row_problems(row: Any, label: int, scores: np.ndarray, x: Any, job: CertificationSetup) -> Iterator[str]:
    certifier = job.work.certifier[1]
    if row.label != label:
        yield f"the label is {label}, the record says {row.label}"
    if row.correct != (row.predict == row.label):
        yield f"predict={row.predict}, label={row.label} and correct={row.correct} contradict each other"
    if (row.kind, row.confidence) != (certifier.kind, certifier.confidence):
        yield f"kind {row.kind} at {row.confidence}, the certifier gives {certifier.kind} at {certifier.confidence}"
    if not (math.isfinite(row.radius) and row.radius >= 0):
        yield f"the radius {row.radius} is none"
    elif not pd.isna(row.error) or row.predict == ABSTAIN:
        if row.radius > 0:
            yield f"the radius is {row.radius:.6g} where nothing was predicted"
    elif not 0 <= row.predict < job.work.classes:
        yield f"predict={row.predict} is no class"
    elif isinstance(certifier, Smoothing):
        yield from _vote_problems(row, certifier, job)
    elif isinstance(certifier, LinearBounds):
        yield from _bound_problems(row, scores, label, job, x)
    elif isinstance(certifier, Attribution):
        if row.predict != (pred := int(scores.argmax())):
            yield f"the defense predicts {pred}, the record says {row.predict}"
    elif isinstance(certifier, Patches):
        mechanism: Any = job.setup.target.victim.mechanism
        yield from _patch_problems(row, mechanism.bands)
    elif isinstance(certifier, Poisoning):
        yield from _poisoning_problems(row, partition_votes(job.setup.target.victim.mechanism))


def _vote_problems(row: Any, certifier: Smoothing, job: CertificationSetup) -> Iterator[str]:
    """Yield a line where counts do not give the recorded bounds and radius at the certifier's alpha."""
    mechanism: Any = job.setup.target.victim.mechanism
    plan = certifier._plan(mechanism, 1, job.work.threat)
    plan = certifier.drawn(plan, Rng(job.work.seed, torch.tensor([int(row.sample)]), STAGE))
    hits = np.asarray(row.counts, np.int64)
    if hits.shape != (plan.voters,) or row.trials not in plan.looks or not ((hits >= 0) & (hits <= row.trials)).all():
        yield f"{hits.tolist()} votes of {row.trials} draws are not those of this certifier"
        return
    look = plan.looks.index(int(row.trials))
    least, most = plan.selection + row.trials, plan.selection + plan.looks[-1]
    if not least <= row.samples_used <= most or row.forwards != row.samples_used * plan.voters:
        yield f"{row.samples_used} draws and {row.forwards} forwards are not those of {row.trials} draws for a bound"
    pilot = np.asarray(getattr(row, "pilot", None) if plan.sequence else [], float).reshape(-1)
    if plan.sequence and not (pilot.shape == hits.shape and ((pilot >= 0) & (pilot <= plan.selection)).all()):
        yield f"{pilot.tolist()} votes of {plan.selection} draws of the selection are not those of this certifier"
        return
    bounds = look_bounds(plan, look, hits, pilot)
    if not np.allclose(bounds, np.asarray(row.lower), rtol=CLOSE, atol=CLOSE):
        yield f"{hits.tolist()} votes of {row.trials} give the bounds {bounds.tolist()}, the record says {row.lower}"
    radius = float(floored(plan.radius(bounds[None]))[0])
    if abs(radius - row.radius) > 1.5e-6:
        yield f"these votes give the radius {radius:.6f}, the record says {row.radius:.6f}"
    if row.radius > (best := largest_radius(certifier.most(plan))) + 1.5e-6:
        yield f"the largest radius that {plan.looks[-1]} draws can give is {best:.6f}, the record says {row.radius:.6f}"


def largest_radius(plan: Stopping) -> float:
    """Return the radius where every vote is for the class, the largest over all looks."""
    sure = np.full(plan.voters, plan.selection)
    every = (look_bounds(plan, look, np.full(plan.voters, n), sure) for look, n in enumerate(plan.looks))
    return max(float(floored(plan.radius(bounds[None]))[0]) for bounds in every)


def _bound_problems(
    row: Any, scores: np.ndarray, label: int, job: CertificationSetup, x: torch.Tensor
) -> Iterator[str]:
    """Yield a line where a radius is not that of its margin, or a margin larger than that of the image itself."""
    pred, eps = int(scores.argmax()), float(job.work.threat.budget(x.double()).flatten()[0])
    if row.predict != pred:
        yield f"the defense predicts {pred}, the record says {row.predict}"
    if not math.isfinite(row.margin):
        yield "its margin is no number"
        return
    wanted = eps if row.margin > 0 else 0.0
    if abs(row.radius - wanted) > 1e-12 * max(1.0, wanted):
        yield f"the margin {row.margin:.6g} gives the radius {wanted:.6g}, the record says {row.radius:.6g}"
    clean = float(scores[label] - np.delete(scores, label).max())
    if row.margin > 0 and row.predict != label:
        yield f"a margin of {row.margin:.6g} is recorded for class {label}, which the defense does not predict"
    elif not isinstance(job.work.certifier[1], MixingBounds) and row.margin > clean + 1e-4 * np.abs(scores).max():
        yield f"the margin of the image itself is {clean:.6g}, in the ball {row.margin:.6g} is recorded"


def _patch_problems(row: Any, bands: Any) -> Iterator[str]:
    """Yield a line where a side is larger than the votes for the class allow."""
    votes = int(np.asarray(row.counts).sum())
    most = max(0, math.ceil(votes / 2) - bands.width)  # all other classes without a vote
    if len(np.asarray(row.counts)) != 1 or not 0 <= votes <= bands.size or row.trials != bands.size:
        yield f"{votes} votes of {row.trials} bands are not those of this certifier"
    elif row.radius > most or row.radius != int(row.radius):
        yield f"{votes} votes of {bands.size} bands can certify a side of {most}, the record says {row.radius:g}"


def _poisoning_problems(row: Any, mechanism: PartitionVotes) -> Iterator[str]:
    """Yield a line where more changes are survived than any votes allow: fewer than there are networks to turn."""
    votes, count = int(np.asarray(row.counts).sum()), mechanism.buckets.count
    if len(np.asarray(row.counts)) != 1 or not 0 <= votes <= count or row.trials != count:
        yield f"{votes} votes of {row.trials} networks are not those of this certifier"
        return
    turned = votes if mechanism.rule == "votes" else count
    most = turned // 2 if mechanism.buckets.copies == 1 else turned
    if row.radius > most or row.radius != int(row.radius):
        yield f"{votes} votes of {count} networks can certify {most} changes, the record says {row.radius:g}"


def _total_problems(run: RunFolder, manifest: Manifest) -> Iterator[str]:
    total = summary(run)
    stated: Any = manifest.get("cost", {})
    cost = stated.get(STAGE, {})
    if (cost.get("attacked"), cost.get("forwards")) != (total.samples, total.forwards):
        yield f"run.json: the records give {total.forwards} forwards for {total.samples} samples, its cost says else"
    if sorted(total.errors) != sorted(manifest.get("failures", [])):
        yield "run.json: its failures are not those of the records"


def _again(job: CertificationSetup, chunk: int, samples: Sequence[int]) -> pd.DataFrame:
    place = {int(sample): at for at, sample in enumerate(job.setup.split.ids)}
    batch = job.setup.split.read([place[sample] for sample in samples])
    frame: pd.DataFrame = job.work.chunk(batch, lambda finished, forwards: None).to_pandas()
    return frame


def _rows(table: pd.DataFrame, samples: Sequence[int]) -> dict[int, Any]:
    return {int(row.sample): row for row in entries(table[table["sample"].isin(samples)])}


def _plain(row: Any) -> dict[str, Any]:
    """Return a row as values that equal themselves, NaN among them."""
    return {
        name: value.tobytes() if isinstance(value, np.ndarray) else None if pd.isna(value) else value
        for name, value in row._asdict().items()
    }


def _difference(row: Any, again: Any) -> str:
    """Return how a certificate differs from the one made anew; empty: not beyond rounding."""
    for column in ("label", "predict", "correct", "kind", "confidence"):
        if getattr(row, column) != getattr(again, column):
            return f"{column} is {getattr(again, column)}, the record says {getattr(row, column)}"
    if pd.isna(row.error) != pd.isna(again.error):
        return f"error is {again.error}, the record says {row.error}"
    if len(row.counts) != len(again.counts):
        return f"{len(again.counts)} networks vote, the record says {len(row.counts)}"
    turned = np.abs(np.asarray(row.counts) - np.asarray(again.counts)).tolist()
    if row.trials != again.trials or max(turned, default=0) > max(1, VOTES * row.trials):
        return f"{list(again.counts)} votes of {again.trials}, the record says {list(row.counts)} of {row.trials}"
    if not len(row.counts) and row.trials:
        return attribution_difference(row, again)
    if not len(row.counts):
        if not math.isclose(row.radius, again.radius, rel_tol=1e-9, abs_tol=1e-12):
            return f"the radius is {again.radius:.6g}, the record says {row.radius:.6g}"
        searched = bool(again.stop)  # it may split otherwise where rounding does; what it proves is compared above
        close = searched or math.isclose(row.margin, again.margin, rel_tol=ROUNDED, abs_tol=1e-4)
        if not (close or pd.isna(row.margin)):
            return f"the margin is {again.margin:.6g}, the record says {row.margin:.6g}"
    elif row.kind == "sound_det" and row.radius != again.radius:
        return f"the radius is {again.radius:.6g}, the record says {row.radius:.6g}"
    return ""

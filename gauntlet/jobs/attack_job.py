"""An attack job: from a composed configuration to the evidence on disk."""

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from omegaconf import DictConfig

from gauntlet.data.dataset import Batch
from gauntlet.evaluation import gradient_draws
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.gradient_draws import settled
from gauntlet.evaluation.universal_fit import fitted
from gauntlet.evidence.example_storage import DiskEstimate, StoragePolicy, stored
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.manifest_update import amend, reopen
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.jobs.attack_progress import AttackProgress
from gauntlet.jobs.attack_setup import AttackSetup, prepare
from gauntlet.jobs.chunk_runner import ProgressUnits, ShardOfRun, Worker, held_shard, run_chunks
from gauntlet.jobs.device_workers import at_work, shares
from gauntlet.jobs.stopping import Looks, cut, reopened
from gauntlet.metrics.anytime_interval import anytime
from gauntlet.metrics.attack_summary import AttackSummary, summarize
from gauntlet.metrics.confidence import wilson
from gauntlet.metrics.headline import attack_headline
from gauntlet.sanity_checks import (
    PROBE,
    Flag,
    clean_at_chance,
    decisions_beat_scores,
    from_evidence,
    noisy_gradients,
    of_victim,
)
from gauntlet.sanity_checks.probe import fidelity
from gauntlet.system import provenance
from gauntlet.system.progress import Bar
from gauntlet.threat_model.access import GRADIENT, TRANSFER, level_of
from gauntlet.tracking import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A run as it is on disk."""

    run: RunFolder
    manifest: Manifest
    summary: AttackSummary
    tracker: Tracker


def evaluate(composed: DictConfig, choices: dict[str, str], command: str) -> Outcome:
    """Run, or go on with, the evaluation that the configuration describes.

    Args:
        composed: as Hydra composed it.
        choices: group -> name of the choice; names the folders.
        command: what the user can paste to get this evaluation.

    Raises:
        UserError: the configuration, the data, the model or the runs folder is unfit; what is on disk is kept.
    """
    job = prepare(composed, choices, command)
    first, *others = shares(job.runtime, job.manifest["chunks"])
    if others:
        with at_work(evaluate, others, composed, choices, command):
            _evaluated(job.sharing(first))
    return _evaluated(job)


def _evaluated(job: AttackSetup) -> Outcome:
    """Do the chunks that fall to this process, and sum up what is there."""
    with held_shard(job.run, job.runtime, lambda: _with_draws(job)) as manifest:
        manifest = reopened(job.run, manifest, job.manifest, job.setup.request.enough)
        victim = settled(job.evaluation.victim, manifest.get("draws", {}))
        job = replace(job, evaluation=replace(job.evaluation, victim=victim))
        share = ShardOfRun.of(manifest, job.runtime)
        looks = _looks(job)
        worked = _work(job, manifest, share, looks)
        enough = looks is not None and looks.enough()
        whole = enough or len(job.run.present()) == manifest["chunks"]  # asked before counting: shards may be at work
        total = summarize(job.run, manifest["stages"], None if whole else share.chunks)
        if facts := manifest.get("stop_when"):
            total.looked = facts["low"], facts["high"]
        elif looks is not None and looks.samples and not looks.open:
            total.looked = looks.ends
        if whole and (worked or manifest["status"] != "done"):
            manifest = _settle(job, job.run.manifest(), total, looks)
    return Outcome(job.run, manifest, total, job.setup.request.tracker)


def _with_draws(job: AttackSetup) -> Manifest:
    """Return the manifest with the draws of random heads, measured once for all processes and resumed runs."""
    if job.run.manifest_path.exists():
        return job.manifest
    draws = draws_of(job)
    return job.manifest | Manifest(draws=draws) if draws else job.manifest


def draws_of(job: AttackSetup) -> dict[str, dict[str, Any]]:
    """Return the draws of random heads, measured on the first images of the split."""
    evaluation = job.evaluation
    probe = job.split.read(slice(0, min(len(job.split), gradient_draws.PROBE)))
    batch = Batch(*(t.to(evaluation.device) for t in probe))
    asked, gradients = job.setup.request.cfg.draws, evaluation.given == GRADIENT
    return gradient_draws.measure(evaluation.victim, batch, evaluation.seed, asked, gradients)


def _looks(job: AttackSetup) -> Looks | None:
    """Return what looks whether the run may end before its last image; None where it may not."""
    width = job.setup.request.enough
    return None if width is None else Looks.of(job.run, job.manifest["stages"], width)


def _work(job: AttackSetup, manifest: Manifest, share: ShardOfRun, looks: Looks | None) -> int:
    """Do the chunks of this shard that are not there yet, or not sound; return how many."""
    policy = _storage_policy(job, manifest)

    def fit(chunk: int, table: pa.Table) -> bool:
        at = share.positions(chunk)
        ids = policy.of_chunk(job.split.ids[at], at.start)
        whole = stored(job.run, chunk, policy.due(table, manifest["stages"], ids), ids)
        if not whole:
            log.warning("%s lacks adversarial examples of its records", job.run.adversarial_path(chunk))
        return whole

    def begin(missing: list[int]) -> Worker:
        others = set(range(manifest["chunks"])) - job.run.present()
        _check_disk(job, manifest, policy, others | set(missing))
        opened = reopen(job.run, job.manifest)
        return _worker(job, replace(_fitted(job, opened), every=policy.every), manifest, policy)

    name = manifest["name"]
    counted = ProgressUnits(f"{name['defense']} {name['attack']}", "images")
    return run_chunks(job.run, job.split, share, job.runtime, counted, fit, begin, looks)


def _worker(job: AttackSetup, evaluation: Evaluation, manifest: Manifest, policy: StoragePolicy) -> Worker:
    """Return what does one chunk: crafts, attacks, judges, and writes examples before records."""
    for crafter in job.crafters:
        crafter.tidy()

    counts = "protocol" not in manifest and manifest["threat"]["radius"] is not None
    looked = job.setup.request.enough is not None
    attacks = {stage.name: stage.attack for stage in evaluation.stages}
    progress = AttackProgress(attacks, counts, anytime if looked else wilson)

    def work(chunk: int, at: slice, batch: Batch, bar: Bar) -> None:
        counted = progress.chunk(bar, len(batch.ids))
        for crafter in job.crafters:
            crafter.ensure(at, counted.advance)
        done = evaluate_chunk(evaluation, batch, counted.advance)
        _store(job, manifest, chunk, done.adversarial, policy.of_chunk(job.split.ids[at], at.start))
        job.run.write_part(chunk, done.rows, done.seconds)
        progress.done(done.rows, done.seconds)
        counted.close()

    return work


def _storage_policy(job: AttackSetup, manifest: Manifest) -> StoragePolicy:
    """Return what is stored: what the run began with, or more where this process is to store more."""
    mine, begun = StoragePolicy.of(job.runtime.keep), StoragePolicy.of_run(manifest)
    if not begun.covers(mine):

        def widen(manifest: Manifest) -> None:
            if not StoragePolicy.of_run(manifest).covers(mine):
                manifest["keep"] = mine.text

        amend(job.run, widen)
        return mine
    if begun != mine:
        log.warning("this run stores adversarial examples by runtime.keep=%s, as it began", begun.text)
    return begun


def _check_disk(job: AttackSetup, manifest: Manifest, policy: StoragePolicy, missing: set[int]) -> None:
    """Refuse to begin what the disk cannot hold. missing: chunks that this process or another has still to do."""
    pixels = job.split.read(slice(0, 1)).x.numel()
    said = DiskEstimate.of(policy, manifest, sorted(missing), pixels).check(job.run.path, policy)
    if said:
        log.info("%s", said)


def _store(
    job: AttackSetup, manifest: Manifest, chunk: int, adversarial: dict[str, np.ndarray], ids: np.ndarray
) -> None:
    """Write the adversarial examples of a chunk, of these samples alone; no file where the policy is about none."""
    if not len(ids):
        return
    mine = np.isin(adversarial["sample"], ids)
    chosen = adversarial if mine.all() else {name: array[mine] for name, array in adversarial.items()}
    job.run.write_examples(chunk, chosen, manifest["stages"][1:])


def _fitted(job: AttackSetup, manifest: Manifest) -> Evaluation:
    """Return the evaluation with the perturbations that its attacks learn from training images; record their facts."""
    if job.train is None:
        return job.evaluation
    cache = job.setup.request.runs_dir / "_universal"
    evaluation, facts = fitted(job.evaluation, job.train, manifest["victim"], cache, job.runtime.progress)
    amend(job.run, lambda manifest: manifest.update(Manifest(fit=facts)))
    return evaluation


def _settle(job: AttackSetup, manifest: Manifest, total: AttackSummary, looks: Looks | None) -> Manifest:
    """Write the totals and the flags of a run whose chunks are all there, or that may end where it is."""
    probe = job.split.read(slice(0, min(len(job.split), PROBE)))
    codes = {
        (made["commit"], made["dirty"], (made["versions"] or {}).get("torch")) for made in manifest.get("made_by", [])
    }
    mixed = [Flag("mixed-code", f"parts of this run were made by {len(codes)} versions of the code")]
    flags = [
        *(mixed if len(codes) > 1 else []),
        *of_victim(job.evaluation, probe, probed_survivors(job.run, manifest)),
        *noisy_gradients(manifest.get("draws", {})),
        *clean_at_chance(total, manifest["dataset"]["classes"]),
        *from_evidence(total, compare=job.evaluation.given != TRANSFER),
        *decisions_beat_scores(total, {stage.name: level_of(stage.attack) for stage in job.evaluation.stages}),
    ]
    settled = Manifest(
        status="failed" if total.errors else "done",
        finished=provenance.now(),
        cost=total.cost,
        flags=[{"name": flag.name, "detail": flag.detail} for flag in flags],
        failures=sorted(total.errors),
        result=attack_headline(job.run, manifest, total),
    )
    if looks is not None and not looks.open:
        settled |= Manifest(stop_when=looks.facts(len(job.split))) | cut(job.manifest, job.split.ids, looks.samples)
    if job.evaluation.given == GRADIENT and job.evaluation.victim.surrogates:
        settled |= Manifest(fidelity=fidelity(job.evaluation, probe))
    return amend(job.run, lambda manifest: manifest.update(settled))


def probed_survivors(run: RunFolder, manifest: Manifest) -> set[int]:
    """Return the samples of the first chunks, enough for the probe, that the attack on the true head does not break."""
    chunks = range(-(-min(PROBE, manifest["dataset"]["samples"]) // manifest["chunk"]))
    held: set[int] = set()
    for chunk in chunks:
        rows = run.read_part(chunk).to_pandas()
        first = rows[(rows["stage"] == manifest["stages"][1]) & ~rows["broken"] & rows["error"].isna()]
        held |= set(first["sample"].tolist())
    return held

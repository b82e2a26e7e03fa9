"""One evaluation from a composed configuration to the evidence on disk."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from safetensors.numpy import save as encode_tensors

from gauntlet.data.chunks import chunk_positions, chunks_of
from gauntlet.data.dataset import Batch
from gauntlet.data.prefetch import batches
from gauntlet.errors import UserError
from gauntlet.evaluation import gradient_draws
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.gradient_draws import settled
from gauntlet.evaluation.universal_fit import fitted
from gauntlet.evidence.example_storage import DiskEstimate, StoragePolicy, stored
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.manifest_update import amend, reopen
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.jobs.setup import Job, prepare
from gauntlet.metrics.attack_summary import AttackSummary, summarize
from gauntlet.sanity_checks import PROBE, Flag, blunter, from_evidence, noisy, of_victim
from gauntlet.sanity_checks.probe import fidelity
from gauntlet.system import provenance
from gauntlet.system.atomic_file import write_atomically
from gauntlet.system.lock import sole_owner
from gauntlet.system.process import give_back
from gauntlet.system.progress import Bar
from gauntlet.threat_model.access import GRADIENT, TRANSFER
from gauntlet.tracking import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A run as it stands on disk."""

    run: RunFolder
    manifest: Manifest
    tally: AttackSummary
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
    shard = f"run-{job.runtime.shard}-of-{job.runtime.shards}"
    with sole_owner(job.run.path, shard, "; wait for it, or split the work with runtime.shards"):
        manifest = job.run.create(_with_draws(job))
        _same(manifest, job.manifest, job.run.path)
        victim = settled(job.evaluation.victim, manifest.get("draws", {}))
        job = replace(job, evaluation=replace(job.evaluation, victim=victim))
        worked = _work(job, manifest)
        whole = len(job.run.present()) == manifest["chunks"]  # asked before counting: other shards may be at work
        total = summarize(job.run, manifest["stages"], None if whole else _mine(job, manifest))
        if whole and (worked or manifest["status"] != "done"):
            manifest = _settle(job, job.run.manifest(), total)
    return Outcome(job.run, manifest, total, job.tracker)


def _with_draws(job: Job) -> Manifest:
    """The manifest, with the draws of random heads; they are measured once for all processes and resumed runs."""
    if job.run.manifest_path.exists():
        return job.manifest
    evaluation = job.evaluation
    probe = job.split.read(slice(0, min(len(job.split), gradient_draws.PROBE)))
    batch = Batch(*(t.to(evaluation.device) for t in probe))
    asked, gradients = job.manifest["config"]["draws"], evaluation.given == GRADIENT
    draws = gradient_draws.measure(evaluation.victim, batch, evaluation.seed, asked, gradients)
    return job.manifest | Manifest(draws=draws) if draws else job.manifest


def _same(standing: Manifest, mine: Manifest, folder: Path) -> None:
    """Refuse a folder that holds another evaluation."""
    for key in ("config_hash", "victim", "stages"):
        if standing.get(key) != mine.get(key):
            raise UserError(f"{folder} holds another evaluation ({key} differs); move it away or use another runs_dir")


def _work(job: Job, manifest: Manifest) -> int:
    """Do the chunks of this shard that are not there yet, or not sound; return how many."""
    run, size = job.run, manifest["chunk"]
    samples = manifest["dataset"]["samples"]
    keep = _policy(job, manifest)
    mine = _mine(job, manifest)
    present = run.present()
    ready = {chunk for chunk in mine if chunk in present and _sound(job, manifest, chunk, keep)}
    missing = [chunk for chunk in mine if chunk not in ready]
    if not missing:
        return 0
    _look_for_room(job, manifest, keep, set(range(manifest["chunks"])) - present | set(missing))
    manifest = reopen(run, job.manifest)
    evaluation = replace(_fitted(job, manifest), every=keep.every)
    counts = {chunk: len(range(samples)[chunk_positions(samples, size, chunk)]) for chunk in mine}
    stages = len(manifest["stages"])
    with Bar(
        total=stages * sum(counts.values()),
        initial=stages * sum(counts[chunk] for chunk in ready),
        unit="samples",
        shown=job.runtime.progress,
        desc=f"{manifest['name']['defense']} {manifest['name']['attack']}",
    ) as bar:

        def advance(stage: str, count: int) -> None:
            bar.note(stage, refresh=False)
            bar.update(count)

        positions = [chunk_positions(samples, size, chunk) for chunk in missing]
        for chunk, at, batch in zip(
            missing, positions, batches(job.split, positions, job.runtime.workers), strict=True
        ):
            for workshop in job.workshops:
                workshop.ensure(at, advance)
            done = evaluation.chunk(batch, advance)
            _store(job, manifest, chunk, done.adversarial, keep.of_chunk(job.split.ids[at], at.start))
            run.write_part(chunk, done.rows, done.seconds)
            give_back()
    return len(missing)


def _mine(job: Job, manifest: Manifest) -> list[int]:
    """The chunks of this shard."""
    samples, size = manifest["dataset"]["samples"], manifest["chunk"]
    return list(chunks_of(samples, size, job.runtime.shards, job.runtime.shard))


def _policy(job: Job, manifest: Manifest) -> StoragePolicy:
    """What is stored: what the run began with, or more where this process is to store more."""
    mine, keep = StoragePolicy.of(job.runtime.keep), StoragePolicy.standing(manifest)
    if not keep.covers(mine):

        def widen(manifest: Manifest) -> None:
            if not StoragePolicy.standing(manifest).covers(mine):
                manifest["keep"] = mine.text

        amend(job.run, widen)
        return mine
    if keep != mine:
        log.warning("this run stores adversarial examples by runtime.keep=%s, as it began", keep.text)
    return keep


def _look_for_room(job: Job, manifest: Manifest, keep: StoragePolicy, missing: set[int]) -> None:
    """Refuse to begin what the disk cannot hold. missing: chunks that this process or another has still to do."""
    pixels = job.split.read(slice(0, 1)).x.numel()
    said = DiskEstimate.of(keep, manifest, sorted(missing), pixels).check(job.run.path, keep)
    if said:
        log.info("%s", said)


def _store(job: Job, manifest: Manifest, chunk: int, adversarial: dict[str, np.ndarray], ids: np.ndarray) -> None:
    """Write the adversarial examples of a chunk, of these samples alone; no file where the policy is about none."""
    if not len(ids):
        return
    mine = np.isin(adversarial["sample"], ids)
    chosen = adversarial if mine.all() else {name: array[mine] for name, array in adversarial.items()}
    tensors = encode_tensors(chosen, {"stages": json.dumps(manifest["stages"][1:])})
    write_atomically(job.run.adversarial_path(chunk), tensors)


def _fitted(job: Job, manifest: Manifest) -> Evaluation:
    """The evaluation with the perturbations that its attacks learn from training images, which the manifest tells."""
    if job.train is None:
        return job.evaluation
    cache = Path(job.manifest["config"]["runs_dir"]) / "_universal"
    evaluation, facts = fitted(job.evaluation, job.train, manifest["victim"], cache, job.runtime.progress)
    amend(job.run, lambda standing: standing.update(Manifest(fit=facts)))
    return evaluation


def _sound(job: Job, manifest: Manifest, chunk: int, keep: StoragePolicy) -> bool:
    """Whether a part can be read, holds no error and has its examples; else it is set aside and done again."""
    run, at = job.run, chunk_positions(manifest["dataset"]["samples"], manifest["chunk"], chunk)
    try:
        table = run.read_part(chunk)
        ids = keep.of_chunk(job.split.ids[at], at.start)
        errors = table["error"]
        if errors.null_count == len(errors) and stored(run, chunk, keep.due(table, manifest["stages"], ids)):
            return True
    except UserError as cause:
        log.warning("%s", cause)
    log.warning("doing chunk %d again; its old records are now %s", chunk, run.set_aside(chunk).name)
    return False


def _settle(job: Job, manifest: Manifest, total: AttackSummary) -> Manifest:
    """Write the totals and the flags of a run whose chunks are all there."""
    probe = job.split.read(slice(0, min(len(job.split), PROBE)))
    codes = {(made["commit"], made["dirty"], made["versions"].get("torch")) for made in manifest.get("made_by", [])}
    mixed = [Flag("mixed-code", f"parts of this run were made by {len(codes)} versions of the code")]
    flags = [
        *(mixed if len(codes) > 1 else []),
        *of_victim(job.evaluation, probe, _standing(job.run, manifest)),
        *noisy(manifest.get("draws", {})),
        *from_evidence(total, compare=job.evaluation.given != TRANSFER),
        *blunter(total, {stage.name: stage.attack.needs for stage in job.evaluation.stages}),
    ]
    settled = Manifest(
        status="failed" if total.errors else "done",
        finished=provenance.now(),
        cost=total.cost,
        flags=[flag.as_dict() for flag in flags],
        failures=sorted(total.errors),
    )
    if job.evaluation.given == GRADIENT and job.evaluation.victim.surrogates:
        settled |= Manifest(fidelity=fidelity(job.evaluation, probe))
    return amend(job.run, lambda standing: standing.update(settled))


def _standing(run: RunFolder, manifest: Manifest) -> set[int]:
    """Samples of the first chunks, enough for the probe, that the attack on the true head leaves standing."""
    chunks = range(-(-min(PROBE, manifest["dataset"]["samples"]) // manifest["chunk"]))
    held: set[int] = set()
    for chunk in chunks:
        rows = run.read_part(chunk).to_pandas()
        first = rows[(rows["stage"] == manifest["stages"][1]) & ~rows["broken"] & rows["error"].isna()]
        held |= set(first["sample"].tolist())
    return held

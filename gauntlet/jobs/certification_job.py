"""A certification job: from a composed configuration to the evidence on disk; chunks and shards as for attacks."""

import time
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from gauntlet.certification.claimed import Claimed
from gauntlet.config.validate import build
from gauntlet.data.dataset import Batch, Dataset
from gauntlet.errors import UserError
from gauntlet.evaluation.certification import STAGE, Certification
from gauntlet.evaluation.start_checks import check_predictions
from gauntlet.evidence.adversarial_set import Arrays
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.manifest_update import amend, reopen
from gauntlet.evidence.run_folder import MAPS, RunFolder
from gauntlet.jobs.chunk_runner import ProgressUnits, ShardOfRun, Worker, held_shard, run_chunks
from gauntlet.jobs.device_workers import at_work, shares
from gauntlet.jobs.run_identity import certification_manifest, folder_of
from gauntlet.jobs.setup import Setup, load, request
from gauntlet.metrics.certificate_summary import CertificateSummary, summary
from gauntlet.metrics.headline import certificate_headline
from gauntlet.system import provenance
from gauntlet.system.progress import Bar
from gauntlet.tracking import Tracker


@dataclass(frozen=True)
class CertificationSetup:
    """Everything that a certification job needs, built. manifest: of the run, as this process would begin it."""

    setup: Setup
    work: Certification
    manifest: Manifest
    run: RunFolder


@dataclass(frozen=True)
class Certified:
    """A run as it is on disk."""

    run: RunFolder
    manifest: Manifest
    summary: CertificateSummary
    tracker: Tracker


def certify(composed: DictConfig, choices: dict[str, str], command: str) -> Certified:
    """Run, or go on with, the certification that the configuration describes.

    Args:
        composed: as Hydra composed it.
        choices: group -> name of the choice; names the folders.
        command: what the user can paste to get this run.

    Raises:
        UserError: the configuration, the data, the model or the runs folder is unfit; what is on disk is kept.
    """
    job = prepare(composed, choices, command)
    first, *others = shares(job.setup.request.runtime, job.manifest["chunks"])
    if others:
        with at_work(certify, others, composed, choices, command):
            _certified(replace(job, setup=job.setup.sharing(first)))
    return _certified(job)


def _certified(job: CertificationSetup) -> Certified:
    """Do the chunks that fall to this process, and sum up what is there."""
    runtime = job.setup.request.runtime
    with held_shard(job.run, runtime, lambda: job.manifest) as manifest:
        try:
            worked = _work(job, manifest)
        except UserError as cause:
            _refused(job.run, str(cause))
            raise
        whole = len(job.run.present()) == manifest["chunks"]  # asked before counting: other shards may be at work
        total = summary(job.run)
        if whole and (worked or manifest["status"] != "done"):
            manifest = _settle(job.run, total)
    return Certified(job.run, manifest, total, job.setup.request.tracker)


def prepare(
    composed: DictConfig, choices: dict[str, str], command: str, data: Dataset | None = None
) -> CertificationSetup:
    """Check the configuration and build what it names. Writes nothing but trained weights to their cache.

    data: the data set, where that of the configuration is not to be read.

    Raises:
        UserError: the configuration, the data or a model is unfit, or the certifier cannot certify this defense.
    """
    asked = request(composed, choices, command)
    threat = asked.threat
    if asked.cfg.surrogates:
        raise UserError("surrogates are for transfer attacks; leave them out of a certification")
    if asked.enough is not None:
        raise UserError("stop_when.interval watches the robust accuracy of an attack; leave it out of a certification")
    certifier, name = build(asked.cfg.certifier), asked.choice("certifier")
    if threat.norm not in certifier.norms:
        raise UserError(
            f"certifier={name} has no certificate for threat={threat.norm}; take threat={' or '.join(certifier.norms)}"
        )
    if threat.targeted:
        raise UserError("a certificate excludes every other class; leave threat.goal=targeted to attacks")
    setup = load(asked, fold=False, data=data)  # the certified network is the deployed one
    form = tuple(setup.split.read(slice(0, 1)).x.shape[1:])
    check_predictions(setup.target.victim, form, setup.device, asked.seed)
    certifier.check(setup.target.victim, threat)
    work = Certification(
        setup.target,
        (name, certifier),
        threat,
        setup.dataset.classes,
        asked.seed,
        asked.runtime.batch_size,
        setup.device,
    )
    manifest = certification_manifest(setup, work)
    if isinstance(certifier, Claimed):
        certifier.fit(manifest)
    return CertificationSetup(setup, work, manifest, folder_of(manifest, asked.runs_dir))


def _work(job: CertificationSetup, manifest: Manifest) -> int:
    """Do the chunks of this shard that are not there yet, or not sound; return how many."""
    runtime, name = job.setup.request.runtime, manifest["name"]

    def begin(missing: list[int]) -> Worker:
        reopen(job.run, job.manifest)
        return _worker(job)

    counted = ProgressUnits(f"{name['defense']} {name['certifier']}", "images")
    share = ShardOfRun.of(manifest, runtime)
    return run_chunks(job.run, job.setup.split, share, runtime, counted, lambda chunk, table: True, begin)


def _worker(job: CertificationSetup) -> Worker:
    """Return what certifies one chunk and writes its records."""
    begun, passes = time.perf_counter(), 0

    def work(chunk: int, at: slice, batch: Batch, bar: Bar) -> None:
        def advance(finished: int, forwards: int) -> None:
            nonlocal passes
            passes += forwards
            if passes:
                bar.note(f"{passes / max(time.perf_counter() - begun, 1e-9):,.0f} forwards/s", refresh=False)
            bar.update(finished)

        start = time.perf_counter()
        met: dict[int, Tensor] = {}
        maps: dict[int, Tensor] = {}
        rows = job.work.chunk(batch, advance, met, maps)
        if met:
            job.run.write_examples(chunk, _stored(met), [STAGE])
        if maps:
            images = dict(zip(batch.ids.tolist(), batch.x, strict=True))
            clean = torch.stack([images[sample] for sample in maps]).float().numpy()
            job.run.write_examples(chunk, _stored(maps) | {"x": clean}, [MAPS])
        job.run.write_part(chunk, rows, {STAGE: time.perf_counter() - start})

    return work


def _stored(found: dict[int, Tensor]) -> Arrays:
    """Return what a file holds of images [C, H, W] by sample."""
    images = torch.stack(list(found.values())).float().numpy()
    return {"sample": np.array(list(found), np.int64), "stage": np.zeros(len(found), np.uint16), "z": images}


def _settle(run: RunFolder, total: CertificateSummary) -> Manifest:
    """Write the totals of a run whose chunks are all there."""
    cost = {"attacked": total.samples, "forwards": total.forwards, "backwards": 0, "seconds": round(total.seconds, 3)}
    settled = Manifest(
        status="failed" if total.errors else "done",
        finished=provenance.now(),
        cost={STAGE: cost},  # type: ignore[dict-item]
        failures=sorted(total.errors),
        result=certificate_headline(run, run.manifest(), total),
    )
    return amend(run, lambda manifest: manifest.update(settled))


def _refused(run: RunFolder, why: str) -> None:
    """Record that a run of which nothing is done failed, and why: say, the certifier cannot read the network."""
    if not run.present():
        with suppress(UserError):  # the disk is full: that is what the user is told already
            amend(run, lambda manifest: manifest.update(Manifest(status="failed", failures=[why])))

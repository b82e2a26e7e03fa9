"""One certification from a composed configuration to the evidence on disk: chunks, resume, shards, as for attacks."""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from gauntlet.config.runtime import Runtime
from gauntlet.config.validate import build, checked
from gauntlet.data.chunks import chunk_positions, chunks_of
from gauntlet.data.dataset import Dataset, Split
from gauntlet.data.prefetch import batches
from gauntlet.errors import UserError
from gauntlet.evaluation.certification import STAGE, Certification
from gauntlet.evaluation.deployment import deploy
from gauntlet.evidence.digest import digest_of
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.manifest_update import amend, reopen
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import SCHEMA_VERSION
from gauntlet.evidence.stable_names import first_name, to_record
from gauntlet.jobs.setup import KEYS
from gauntlet.metrics.certificate_summary import Summary, summary
from gauntlet.system import provenance
from gauntlet.system.lock import sole_owner
from gauntlet.system.process import give_back
from gauntlet.system.progress import Bar
from gauntlet.threat_model.threat import Threat
from gauntlet.tracking import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A certification with its data and its folder."""

    work: Certification
    split: Split
    runtime: Runtime
    tracker: Tracker
    run: RunFolder
    manifest: Manifest


@dataclass(frozen=True)
class Certified:
    """A run as it stands on disk."""

    run: RunFolder
    manifest: Manifest
    summary: Summary
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
    shard = f"run-{job.runtime.shard}-of-{job.runtime.shards}"
    with sole_owner(job.run.path, shard, "; wait for it, or split the work with runtime.shards"):
        manifest = job.run.create(job.manifest)
        for key in ("config_hash", "victim"):
            if manifest.get(key) != job.manifest.get(key):
                raise UserError(
                    f"{job.run.path} holds another run ({key} differs); move it away or use another runs_dir"
                )
        try:
            worked = _work(job, manifest)
        except UserError as cause:
            _refused(job.run, str(cause))
            raise
        whole = len(job.run.present()) == manifest["chunks"]  # asked before counting: other shards may be at work
        total = summary(job.run)
        if whole and (worked or manifest["status"] != "done"):
            settled = Manifest(
                status="failed" if total.errors else "done",
                finished=provenance.now(),
                cost={
                    STAGE: {
                        "attacked": total.samples,
                        "forwards": total.forwards,
                        "backwards": 0,
                        "seconds": round(total.seconds, 3),
                    }
                },
                failures=sorted(total.errors),
            )
            manifest = amend(job.run, lambda standing: standing.update(settled))
    return Certified(job.run, manifest, total, job.tracker)


def _refused(run: RunFolder, why: str) -> None:
    """Say of a run of which nothing is done, as where the certifier cannot read the network, that it failed and why."""
    if not run.present():
        with suppress(UserError):  # the disk is full: that is what the user is told already
            amend(run, lambda standing: standing.update(Manifest(status="failed", failures=[why])))


def prepare(composed: DictConfig, choices: dict[str, str], command: str) -> Job:
    """Check the configuration and build what it names. Writes nothing but trained weights to their cache.

    Raises:
        UserError: the configuration, the data or a model is unfit, or the certifier cannot certify this defense.
    """
    cfg = checked(composed, KEYS)
    if cfg.surrogates:
        raise UserError("surrogates are for transfer attacks; leave them out of a certification")
    runtime, threat, certifier, tracker = (build(cfg[key]) for key in ("runtime", "threat", "certifier", "logger"))
    if not isinstance(threat, Threat) or not isinstance(runtime, Runtime):
        raise UserError(
            "threat and runtime must be gauntlet.threat_model.threat.Threat and gauntlet.config.runtime.Runtime"
        )
    name = choices.get("certifier", _target(cfg.certifier))
    if threat.norm not in certifier.norms:
        raise UserError(
            f"certifier={name} has no certificate for threat={threat.norm}; take threat={' or '.join(certifier.norms)}"
        )
    torch.set_num_threads(runtime.threads)
    torch.backends.cudnn.allow_tf32 = False  # the certified network is the deployed one, in float32
    torch.backends.cuda.matmul.allow_tf32 = False
    device = runtime.torch_device()
    dataset: Dataset = build(cfg.dataset)
    split = dataset.split("test")
    cache, plain = Path(cfg.runs_dir) / "_trained", replace(runtime, fold=False)
    deployed = deploy(cfg.defense, dataset, cache, plain, device, tracker)
    certifier.check(deployed.victim, threat)
    work = Certification(deployed, (name, certifier), threat, dataset.classes, cfg.seed, runtime.batch_size, device)
    manifest = _manifest(cfg, choices, work, split, dataset, runtime, command)
    called = manifest["name"]
    folder = Path(
        cfg.runs_dir,
        called["dataset"],
        called["threat"],
        called["defense"],
        called["certifier"],
        manifest["config_hash"],
    )
    return Job(work, split, runtime, tracker, RunFolder(folder), manifest)


def _manifest(
    cfg: DictConfig,
    choices: dict[str, str],
    work: Certification,
    split: Split,
    dataset: Dataset,
    runtime: Runtime,
    command: str,
) -> Manifest:
    config: dict[str, Any] = to_record(OmegaConf.to_container(cfg))
    (name, certifier), threat, deployed = work.certifier, work.threat, work.deployed
    data = {"digest": split.digest(), "selection": split.selection()}
    answer = {
        "victim": deployed.identity,
        "data": data,
        "threat": [threat.norm, threat.label, threat.low, threat.high],
        "certifier": [name, config["certifier"]],
        "seed": cfg.seed,
        "schema": SCHEMA_VERSION,
    }
    commit, dirty = provenance.commit()
    return Manifest(
        schema_version=SCHEMA_VERSION,
        status="running",
        kind="certificate",
        name={
            "dataset": dataset.name.replace("/", "-"),
            "threat": threat.label,
            "defense": choices.get("defense", _target(cfg.defense)).replace("/", "-"),
            "certifier": name.replace("/", "-"),
            "model": choices.get("model", _target(cfg.model)),
        },
        command=command,
        config=config,
        config_hash=digest_of(answer),
        victim=deployed.identity,
        threat={
            "norm": threat.norm,
            "eps": str(threat.eps),
            "radius": None if threat.unbounded else threat.radius,
            "low": threat.low,
            "high": threat.high,
        },
        certificate={
            "kind": certifier.kind,
            "confidence": certifier.confidence,
            "sees_label": certifier.sees_label,
        },
        heads="declared",
        dataset={"name": dataset.name, **data, "samples": len(split), "classes": dataset.classes},
        weights=deployed.weights,
        card=deployed.defense.card.as_dict(),
        stages=[STAGE],
        chunk=runtime.chunk,
        chunks=-(-len(split) // runtime.chunk),
        seed=cfg.seed,
        commit=commit,
        dirty=dirty,
        versions=provenance.versions(),
        device=provenance.describe(work.device),
        started=provenance.now(),
        flags=[],
        failures=[],
    )


def _work(job: Job, manifest: Manifest) -> int:
    """Do the chunks of this shard that are not there yet, or not sound; return how many."""
    run, size, samples = job.run, manifest["chunk"], manifest["dataset"]["samples"]
    mine = list(chunks_of(samples, size, job.runtime.shards, job.runtime.shard))
    present = run.present()
    ready = {chunk for chunk in mine if chunk in present and _sound(run, chunk)}
    missing = [chunk for chunk in mine if chunk not in ready]
    if not missing:
        return 0
    reopen(run, job.manifest)
    counts = {chunk: len(range(samples)[chunk_positions(samples, size, chunk)]) for chunk in mine}
    begun, passes = time.perf_counter(), 0
    with Bar(
        total=sum(counts.values()),
        initial=sum(counts[chunk] for chunk in ready),
        unit="images",
        shown=job.runtime.progress,
        desc=f"{manifest['name']['defense']} {manifest['name']['certifier']}",
    ) as bar:

        def advance(finished: int, forwards: int) -> None:
            nonlocal passes
            passes += forwards
            if passes:
                bar.note(f"{passes / max(time.perf_counter() - begun, 1e-9):,.0f} forwards/s", refresh=False)
            bar.update(finished)

        positions = [chunk_positions(samples, size, chunk) for chunk in missing]
        for chunk, batch in zip(missing, batches(job.split, positions, job.runtime.workers), strict=True):
            start = time.perf_counter()
            rows = job.work.chunk(batch, advance)
            run.write_part(chunk, rows, {STAGE: time.perf_counter() - start})
            give_back()
    return len(missing)


def _sound(run: RunFolder, chunk: int) -> bool:
    """Whether a part can be read and holds no error; else it is set aside and done again."""
    try:
        errors = run.read_part(chunk)["error"]
        if errors.null_count == len(errors):
            return True
    except UserError as cause:
        log.warning("%s", cause)
    log.warning("doing chunk %d again; its old records are now %s", chunk, run.set_aside(chunk).name)
    return False


def _target(node: DictConfig) -> str:
    return first_name(str(node["_target_"])).split(".")[-1].lower()

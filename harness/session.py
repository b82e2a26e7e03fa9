"""One evaluation from a composed configuration to the evidence on disk."""

import hashlib
import json
import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.numpy import save as encode_tensors
from torch import nn
from tqdm import tqdm

from harness import environment
from harness.checks import from_evidence, preflight
from harness.compose import build, checked
from harness.data.contract import Dataset, Split
from harness.errors import UserError
from harness.evaluate import Evaluation, check_images, chunk_positions, chunks_of
from harness.records import CLEAN_STAGE, SCHEMA_VERSION, Manifest, RunFolder, write_atomically
from harness.runtime import Runtime
from harness.tally import Tally, tally
from harness.threat import Threat
from harness.tracking import Tracker
from harness.victim import Victim

log = logging.getLogger(__name__)

KEYS = (
    "dataset", "model", "threat", "defense", "attack", "runtime", "logger",
    "seed", "heads", "checkpoint", "runs_dir", "trusted_packages",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A run as it stands on disk."""

    run: RunFolder
    manifest: Manifest
    tally: Tally
    tracker: Tracker


@dataclass(frozen=True)
class Job:
    """Everything that an evaluation needs, built."""

    evaluation: Evaluation
    split: Split
    runtime: Runtime
    tracker: Tracker
    run: RunFolder
    manifest: Manifest


def evaluate(composed: DictConfig, choices: dict[str, str]) -> Outcome:
    """Run, or go on with, the evaluation that the configuration describes.

    Args:
        composed: as Hydra composed it.
        choices: group -> name of the choice; names the folders.

    Raises:
        UserError: the configuration, the data, the model or the runs folder is unfit; what is on disk is kept.
    """
    job = prepare(composed, choices)
    with _sole_writer(job):
        manifest = job.run.create(job.manifest)
        _same(manifest, job.manifest, job.run.path)
        if manifest["status"] != "done":
            _work(job, manifest)
            manifest = _settle(job, manifest)
    return Outcome(job.run, manifest, tally(job.run, manifest["stages"]), job.tracker)


def prepare(composed: DictConfig, choices: dict[str, str]) -> Job:
    """Check the configuration and build what it names. Writes nothing but trained weights to their cache."""
    cfg = checked(composed, KEYS)
    if cfg.heads not in ("declared", "true"):
        raise UserError(f"heads={cfg.heads} is unknown; choose declared or true")
    runtime, threat, attack, tracker = (build(cfg[key]) for key in ("runtime", "threat", "attack", "logger"))
    if not isinstance(threat, Threat) or not isinstance(runtime, Runtime):
        raise UserError("threat and runtime must be harness.threat.Threat and harness.runtime.Runtime")
    torch.set_num_threads(runtime.threads)
    device = runtime.torch_device()
    dataset: Dataset = build(cfg.dataset)
    split = dataset.split("test")
    defense = build(cfg.defense)
    models, weights = _load_parts(defense, dataset, Path(cfg.runs_dir) / "_trained", runtime, device, tracker)
    victim = _deployed(defense, models)
    attack_name = choices.get("attack", _target_name(cfg.attack))
    evaluation = Evaluation(
        victim=victim,
        attack=(attack_name, attack),
        threat=threat,
        classes=dataset.classes,
        seed=cfg.seed,
        twin=_twin(defense, models) if runtime.fold else None,
        heads=cfg.heads,
        batch_size=runtime.batch_size,
        gradients=Runtime.GRADIENTS[runtime.gradients],
        device=device,
    )
    first = split.read(slice(0, 1))
    check_images(first.ids, first.x, first.y, dataset.classes)
    manifest = _manifest(cfg, choices, evaluation, split, dataset, defense, weights, runtime)
    name = manifest["name"]
    folder = Path(
        cfg.runs_dir, name["dataset"], name["threat"], name["defense"], name["attack"], manifest["config_hash"]
    )
    return Job(evaluation, split, runtime, tracker, RunFolder(folder), manifest)


def _load_parts(
    defense: Any, dataset: Dataset, cache: Path, runtime: Runtime, device: torch.device, tracker: Tracker
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    models: dict[str, nn.Module] = {}
    digests: dict[str, str] = {}
    for name, part in defense.parts.items():
        given = {other: models[other] for other in part.uses}
        trained = part.load(dataset, cache, given=given, device=str(device), progress=runtime.progress, tracker=tracker)
        models[name], digests[name] = trained.module.to(device), trained.digest
    return models, digests


def _deployed(defense: Any, models: dict[str, nn.Module]) -> Victim:
    victim: Victim = defense.deploy(models)
    for module in victim.modules:
        module.eval().requires_grad_(False)
    return victim


def _twin(defense: Any, models: dict[str, nn.Module]) -> Victim:
    """The same defense over copies of its networks with batch norm folded away."""
    from models.folding import folded

    return _deployed(defense, {name: folded(module) for name, module in models.items()})


def _manifest(
    cfg: DictConfig,
    choices: dict[str, str],
    evaluation: Evaluation,
    split: Split,
    dataset: Dataset,
    defense: Any,
    weights: dict[str, str],
    runtime: Runtime,
) -> Manifest:
    config: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    parts = {
        name: {"model": part["model"], "weights": weights[name]}
        for name, part in config["defense"].get("parts", {}).items()
    }
    victim = _hash({"defense": {**config["defense"], "parts": parts}})
    threat = evaluation.threat
    data = {"digest": split.digest(), "selection": split.selection()}
    answer = {
        "victim": victim,
        "data": data,
        "threat": [threat.norm, threat.label, threat.low, threat.high],
        "attack": [evaluation.attack[0], config["attack"]],
        "heads": cfg.heads,
        "seed": cfg.seed,
        "schema": SCHEMA_VERSION,
    }
    commit, dirty = environment.commit()
    return Manifest(
        schema_version=SCHEMA_VERSION,
        status="running",
        kind="attack",
        name={
            "dataset": dataset.name.replace("/", "-"),
            "threat": threat.label,
            "defense": choices.get("defense", _target_name(cfg.defense)).replace("/", "-"),
            "attack": evaluation.attack[0].replace("/", "-"),
            "model": choices.get("model", _target_name(cfg.model)),
        },
        command=shlex.join(["python", *sys.argv]),
        config=config,
        config_hash=_hash(answer),
        victim=victim,
        threat={
            "norm": threat.norm,
            "eps": str(threat.eps),
            "radius": threat.radius,
            "low": threat.low,
            "high": threat.high,
        },
        heads=cfg.heads,
        dataset={"name": dataset.name, **data, "samples": len(split), "classes": dataset.classes},
        weights=weights,
        card=defense.card.as_dict() | {"parameters": _parameters(evaluation.victim)},
        stages=[CLEAN_STAGE, *(stage.name for stage in evaluation.stages)],
        chunk=runtime.chunk,
        chunks=-(-len(split) // runtime.chunk),
        seed=cfg.seed,
        commit=commit,
        dirty=dirty,
        versions=environment.versions(),
        device=environment.describe(evaluation.device),
        started=environment.now(),
        flags=[],
        failures=[],
    )


def _same(standing: Manifest, mine: Manifest, folder: Path) -> None:
    """Refuse a folder that holds another evaluation."""
    for key in ("config_hash", "victim", "stages"):
        if standing.get(key) != mine.get(key):
            raise UserError(f"{folder} holds another evaluation ({key} differs); move it away or use another runs_dir")


def _work(job: Job, manifest: Manifest) -> None:
    """Do the chunks of this shard that are not there yet."""
    run, size = job.run, manifest["chunk"]
    samples = manifest["dataset"]["samples"]
    mine = list(chunks_of(samples, size, job.runtime.shards, job.runtime.shard))
    ready = {chunk for chunk in mine if chunk in run.present() and _sound(run, chunk)}
    counts = {chunk: len(range(samples)[chunk_positions(samples, size, chunk)]) for chunk in mine}
    stages = len(manifest["stages"])
    with tqdm(
        total=stages * sum(counts.values()),
        initial=stages * sum(counts[chunk] for chunk in ready),
        unit="samples",
        disable=not job.runtime.progress,
        desc=f"{manifest['name']['defense']} {manifest['name']['attack']}",
    ) as bar:

        def advance(stage: str, count: int) -> None:
            bar.set_postfix_str(stage, refresh=False)
            bar.update(count)

        for chunk in mine:
            if chunk not in ready:
                batch = job.split.read(chunk_positions(samples, size, chunk))
                done = job.evaluation.chunk(batch, advance)
                if job.runtime.keep == "broken":
                    tensors = encode_tensors(done.adversarial, {"stages": json.dumps(manifest["stages"][1:])})
                    write_atomically(run.adversarial_path(chunk), tensors)
                run.write_part(chunk, done.rows, done.seconds)


def _sound(run: RunFolder, chunk: int) -> bool:
    """Whether a part can be read and holds no error; else it is set aside and done again."""
    try:
        if run.read_part(chunk)["error"].null_count == len(run.read_part(chunk)):
            return True
    except UserError as cause:
        log.warning("%s", cause)
    log.warning("doing chunk %d again; its old records are now %s", chunk, run.set_aside(chunk).name)
    return False


def _settle(job: Job, manifest: Manifest) -> Manifest:
    """Write the totals once every chunk is there."""
    if len(job.run.present()) < manifest["chunks"]:
        return manifest
    total = tally(job.run, manifest["stages"])
    probe = job.split.read(slice(0, min(len(job.split), 64)))
    flags = [*preflight(job.evaluation, probe), *from_evidence(total)]
    settled = manifest | Manifest(
        status="failed" if total.errors else "done",
        finished=environment.now(),
        cost=total.cost,
        flags=[flag.as_dict() for flag in flags],
        failures=sorted(total.errors),
    )
    job.run.update(settled)
    return settled


@contextmanager
def _sole_writer(job: Job) -> Iterator[None]:
    """Hold the lock of this run and shard; a process that dies loses it."""
    path = job.run.path / f"run-{job.runtime.shard}-of-{job.runtime.shards}.lock"
    owner = path.with_suffix(".owner")
    try:
        job.run.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        who = owner.read_text().strip() if owner.exists() else "another process"
        raise UserError(
            f"{who} is working on {job.run.path}; wait for it, or split the work with runtime.shards"
        ) from None
    except OSError as cause:
        raise UserError(
            f"cannot write {job.run.path} ({cause.strerror}); choose another place with runs_dir=DIR"
        ) from None
    try:
        write_atomically(owner, f"{environment.whoami()}\n".encode())
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _target_name(node: DictConfig) -> str:
    return str(node["_target_"]).split(".")[-1].lower()


def _parameters(victim: Victim) -> int:
    return sum(p.numel() for module in victim.modules for p in module.parameters())


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]

"""From a composed configuration to everything that an evaluation needs, built, and the manifest that describes it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from harness import environment
from harness.access import GRADIENT, admit, known
from harness.compose import build, checked
from harness.data.contract import Dataset, Split
from harness.errors import UserError
from harness.evaluate import Evaluation, compares
from harness.records import CLEAN_STAGE, SCHEMA_VERSION, Manifest, RunFolder
from harness.runtime import Runtime
from harness.sanity import check_images
from harness.threat import Threat
from harness.tracking import Tracker
from harness.victim import Victim
from models.folding import folded

KEYS = (
    "dataset", "model", "threat", "defense", "attack", "runtime", "logger",
    "seed", "heads", "access", "checkpoint", "runs_dir", "trusted_packages",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """Everything that an evaluation needs, built."""

    evaluation: Evaluation
    split: Split
    runtime: Runtime
    tracker: Tracker
    run: RunFolder
    manifest: Manifest


def prepare(composed: DictConfig, choices: dict[str, str], command: str) -> Job:
    """Check the configuration and build what it names. Writes nothing but trained weights to their cache.

    Args:
        composed: as Hydra composed it.
        choices: group -> name of the choice; names the folders.
        command: what the user can paste to get this evaluation.

    Raises:
        UserError: the configuration, the data or a model is unfit.
    """
    cfg = checked(composed, KEYS)
    if cfg.heads is True:
        cfg.heads = "true"  # on the command line a bare `true` is a boolean
    if cfg.heads not in ("declared", "true"):
        raise UserError(f"heads={cfg.heads} is unknown; choose declared or true")
    runtime, threat, attack, tracker = (build(cfg[key]) for key in ("runtime", "threat", "attack", "logger"))
    if not isinstance(threat, Threat) or not isinstance(runtime, Runtime):
        raise UserError("threat and runtime must be harness.threat.Threat and harness.runtime.Runtime")
    norms = getattr(attack, "norms", Threat.NORMS)
    if threat.norm not in norms:
        raise UserError(f"this attack is not defined for threat={threat.norm}; it takes {', '.join(norms)}")
    if threat.unbounded and not getattr(attack, "unbounded", False):
        raise UserError(
            "this attack needs a finite threat.eps; give one, or measure distances with attack=fmn or search"
        )
    attack_name = choices.get("attack", _target_name(cfg.attack))
    admit(attack_name, attack, known(cfg.access))
    torch.set_num_threads(runtime.threads)
    torch.backends.cudnn.allow_tf32 = False  # verdicts are float32
    torch.backends.cuda.matmul.allow_tf32 = False
    device = runtime.torch_device()
    dataset: Dataset = build(cfg.dataset)
    split = dataset.split("test")
    defense = build(cfg.defense)
    models, weights = _load_parts(defense, dataset, Path(cfg.runs_dir) / "_trained", runtime, device, tracker)
    victim = _deployed(defense, models)
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
        coverage=getattr(attack, "coverage", "correct" if threat.unbounded else "standing"),
        access=cfg.access,
    )
    first = split.read(slice(0, 1))
    check_images(first.ids, first.x, first.y, dataset.classes, (threat.low, threat.high))
    manifest = _manifest(cfg, choices, evaluation, split, dataset, defense, weights, runtime, command)
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
    command: str,
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
    if compares(evaluation.attack[1]):
        answer["chunk"] = runtime.chunk
    if evaluation.given != GRADIENT:  # runs from before this option keep their hash
        answer["access"] = evaluation.given
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
        command=command,
        config=config,
        config_hash=_hash(answer),
        victim=victim,
        threat={
            "norm": threat.norm,
            "eps": str(threat.eps),
            "radius": None if threat.unbounded else threat.radius,
            "low": threat.low,
            "high": threat.high,
        },
        heads=cfg.heads,
        access=evaluation.given,
        dataset={"name": dataset.name, **data, "samples": len(split), "classes": dataset.classes},
        weights=weights,
        card=defense.card.as_dict() | {"parameters": _parameters(evaluation.victim)},
        stages=[CLEAN_STAGE, *(stage.name for stage in evaluation.stages)],
        coverage=evaluation.coverage,
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


def _target_name(node: DictConfig) -> str:
    return str(node["_target_"]).split(".")[-1].lower()


def _parameters(victim: Victim) -> int:
    return sum(p.numel() for module in victim.modules for p in module.parameters())


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]

"""From a composed configuration to everything that an evaluation needs, built, and the manifest that describes it."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from gauntlet.config.runtime import Runtime
from gauntlet.config.validate import build, checked
from gauntlet.data.dataset import Dataset, Split
from gauntlet.data.validation import check_images
from gauntlet.errors import UserError
from gauntlet.evaluation.deployment import Deployed, deploy
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.gradient_draws import check_draws
from gauntlet.evaluation.randomized_protocol import Protocol
from gauntlet.evaluation.universal_fit import train_part
from gauntlet.evidence.digest import digest_of
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE, SCHEMA_VERSION
from gauntlet.evidence.stable_names import first_name, to_record
from gauntlet.system import provenance
from gauntlet.threat_model.access import GRADIENT, TRANSFER, admit, known
from gauntlet.threat_model.attack import Coverage, compares
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim
from gauntlet.tracking import Tracker
from gauntlet.transfer.crafting import SetCrafter
from gauntlet.transfer.plan import crafted, planned
from gauntlet.transfer.precomputed import Transfer, stored_suite
from gauntlet.transfer.surrogates import owned


def stocked(attack: Any, split: Split) -> Any:
    """The attack, or suite, with the images that it asks for in `pool`: spread evenly over the split, so that a sorted
    one gives several classes too. They depend on the split alone, never on the batch, the chunk or the shard."""
    stages: dict[str, Any] | None = getattr(attack, "stages", None)
    if stages:
        return replace(attack, stages={name: stocked(part, split) for name, part in stages.items()})
    count = min(getattr(attack, "pool", 0), len(split))
    if not count:
        return attack
    batch = split.read([number * len(split) // count for number in range(count)])
    return attack.stocked(batch.x, batch.y)


KEYS = (
    "dataset", "model", "threat", "defense", "attack", "certifier", "runtime", "logger",
    "protocol", "seed", "heads", "access", "draws", "checkpoint", "surrogates",
    "runs_dir", "trusted_packages",
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
    workshops: tuple[SetCrafter, ...] = ()  # that craft the adversarial sets of a transfer run
    train: Split | None = None  # what universal perturbations are fitted to


def prepare(composed: DictConfig, choices: dict[str, str], command: str) -> Job:
    """Check the configuration and build what it names. Writes nothing but trained weights to their cache.

    Args:
        composed: as Hydra composed it.
        choices: group -> name of the choice; names the folders.
        command: what the user can paste to get this evaluation.

    Raises:
        UserError: the configuration, the data or a model is unfit.
    """
    cfg = checked(owned(composed), KEYS)
    if cfg.heads is True:
        cfg.heads = "true"  # on the command line a bare `true` is a boolean
    if cfg.heads not in ("declared", "true"):
        raise UserError(f"heads={cfg.heads} is unknown; choose declared or true")
    runtime, threat, attack, tracker = (build(cfg[key]) for key in ("runtime", "threat", "attack", "logger"))
    protocol = build(cfg.protocol)
    if not isinstance(threat, Threat) or not isinstance(runtime, Runtime) or not isinstance(protocol, Protocol):
        raise UserError(
            "threat, runtime and protocol must be gauntlet.threat_model.threat.Threat, gauntlet.config.runtime.Runtime and "
            "gauntlet.evaluation.randomized_protocol.Protocol"
        )
    norms = getattr(attack, "norms", Threat.NORMS)
    if threat.norm not in norms:
        raise UserError(f"this attack is not defined for threat={threat.norm}; it takes {', '.join(norms)}")
    if threat.unbounded and not getattr(attack, "unbounded", False):
        raise UserError(
            "this attack needs a finite threat.eps; give one, or measure distances with attack=fmn or search"
        )
    attack_name = choices.get("attack", _target_name(cfg.attack))
    if not cfg.surrogates:  # which give all that the attack needs
        admit(attack_name, attack, known(cfg.access))
    elif getattr(attack, "needs", "") == "training-set":
        raise UserError(f"attack={attack_name} is fitted to the defense that it attacks; leave surrogates out")
    torch.set_num_threads(runtime.threads)
    torch.backends.cudnn.allow_tf32 = False  # verdicts are float32
    torch.backends.cuda.matmul.allow_tf32 = False
    device = runtime.torch_device()
    dataset: Dataset = build(cfg.dataset)
    split = dataset.split("test")
    first = split.read(slice(0, 1))
    threat.check_reach(tuple(first.x.shape[1:]))
    attack = stocked(attack, split)
    loaded = partial(
        deploy, dataset=dataset, cache=Path(cfg.runs_dir) / "_trained", runtime=runtime, device=device, tracker=tracker
    )
    target = loaded(cfg.defense)
    if fitted := getattr(target.defense, "calibration", None):
        fitted.check(split.digest())
    bare = target.victim
    workshops = planned(cfg, attack_name, attack, loaded, split, threat, dataset.classes, runtime)
    transfer: Any = crafted(workshops) or stored_suite(attack_name, attack, threat, split)
    attack = transfer or attack
    if cfg.draws is not None:
        check_draws(cfg.draws, bare)
    victim = protocol.applied(bare, cfg.seed)
    coverage: Coverage = "correct" if threat.unbounded else "all" if victim.randomized else "standing"
    evaluation = Evaluation(
        victim=victim,
        attack=(attack_name, attack),
        threat=threat,
        classes=dataset.classes,
        seed=cfg.seed,
        twin=protocol.applied(target.twin, cfg.seed) if target.twin else None,
        heads=cfg.heads,
        batch_size=runtime.batch_size,
        gradients=Runtime.GRADIENTS[runtime.gradients],
        device=device,
        coverage=getattr(attack, "coverage", coverage),
        access=TRANSFER if transfer else cfg.access,
        protocol=protocol,
    )
    check_images(first.ids, first.x, first.y, dataset.classes, (threat.low, threat.high))
    random = protocol if bare.randomized else None
    train = train_part(evaluation, dataset)
    manifest = _manifest(cfg, choices, evaluation, split, dataset, target, runtime, command, random, train)
    name = manifest["name"]
    folder = Path(
        cfg.runs_dir, name["dataset"], name["threat"], name["defense"], name["attack"], manifest["config_hash"]
    )
    return Job(evaluation, split, runtime, tracker, RunFolder(folder), manifest, workshops, train)


def _manifest(
    cfg: DictConfig,
    choices: dict[str, str],
    evaluation: Evaluation,
    split: Split,
    dataset: Dataset,
    target: Deployed,
    runtime: Runtime,
    command: str,
    protocol: Protocol | None,
    train: Split | None,
) -> Manifest:
    config: dict[str, Any] = to_record(OmegaConf.to_container(cfg))
    deployed = dict(target.content)
    if protocol is not None:  # with another protocol it is another victim
        deployed["protocol"] = protocol.identity()
    victim = digest_of(deployed)
    threat = evaluation.threat
    data = {"digest": split.digest(), "selection": split.selection()}
    if train is not None:
        data["train"] = train.digest()
    answer = {
        "victim": victim,
        "data": data,
        "threat": [threat.norm, threat.label, threat.low, threat.high],
        "attack": [evaluation.attack[0], config["attack"]],
        "heads": cfg.heads,
        "seed": cfg.seed,
        "schema": SCHEMA_VERSION,
    }
    suite = evaluation.attack[1]
    if isinstance(suite, Transfer):  # the content of a set counts, not its place
        answer["attack"] = [evaluation.attack[0], suite.identities]
    if compares(suite):
        answer["chunk"] = runtime.chunk
    if evaluation.given != GRADIENT:  # runs from before this option keep their hash
        answer["access"] = evaluation.given
    if protocol is not None:
        answer["protocol"] = protocol.told(evaluation.exact)
    if cfg.draws is not None:
        answer["draws"] = cfg.draws
    commit, dirty = provenance.commit()
    manifest = Manifest(
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
        config_hash=digest_of(answer),
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
        weights=target.weights,
        card=target.defense.card.as_dict() | {"parameters": _parameters(evaluation.victim)},
        stages=[CLEAN_STAGE, *(stage.name for stage in evaluation.stages)],
        coverage=evaluation.coverage,
        chunk=runtime.chunk,
        chunks=-(-len(split) // runtime.chunk),
        keep=runtime.keep,
        seed=cfg.seed,
        commit=commit,
        dirty=dirty,
        versions=provenance.versions(),
        device=provenance.describe(evaluation.device),
        started=provenance.now(),
        flags=[],
        failures=[],
    )
    if isinstance(suite, Transfer):
        manifest |= Manifest(sets=suite.told())
    if members := evaluation.victim.members:
        manifest |= Manifest(members=[[head.name, head.weight] for head in members])
    if protocol is not None:
        manifest |= Manifest(protocol=protocol.told(evaluation.exact), bare=target.identity)
    return manifest


def _target_name(node: DictConfig) -> str:
    return first_name(str(node["_target_"])).split(".")[-1].lower()


def _parameters(victim: Victim) -> int:
    return sum(p.numel() for module in victim.modules for p in module.parameters())

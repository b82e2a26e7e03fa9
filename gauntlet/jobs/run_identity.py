"""What a run is: the hash of all that changes its answer, and the manifest that describes it."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from gauntlet.certification.auto_lirpa import AutoLirpa
from gauntlet.certification.claimed import Claimed
from gauntlet.certification.smoothing import RANDOMIZED, UNION
from gauntlet.config.user_code import code_digest
from gauntlet.data.dataset import Dataset, Split
from gauntlet.errors import UserError, printable
from gauntlet.evaluation.certification import STAGE, Certification
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.randomized_protocol import Protocol
from gauntlet.evidence.digest import digest_of
from gauntlet.evidence.manifest import DataFacts, Manifest, NetworkFacts, ProtocolFacts, RunNames, ThreatFacts
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE, SCHEMA_VERSION
from gauntlet.jobs.model_description import description, model_name
from gauntlet.jobs.setup import Setup
from gauntlet.system import provenance
from gauntlet.threat_model.access import GRADIENT
from gauntlet.threat_model.attack import compares, revisions_of
from gauntlet.transfer.precomputed import PrecomputedTransfer

OWN = ("dataset", "threat", "defense", "attack", "certifier", "protocol", "surrogates")
"""Nodes of the configuration whose code changes the answer, where it is the user's; the model is in the defense."""


UNUSED_LOOKS = {"ratio": 1.5, "futility": 0.001}
"""What version 0.1.0 recorded of looks where a rule takes none."""


def attack_manifest(
    setup: Setup,
    evaluation: Evaluation,
    protocol: Protocol,
    train: Split | None,
    revisions: Mapping[str, int] | None = None,
) -> Manifest:
    """Return the manifest of an attack run, with its hash.

    Args:
        train: what universal perturbations are fitted to.
        revisions: versions of the attacks that made the records; None: those of this code.
    """
    asked, target, suite = setup.request, setup.target, evaluation.attack[1]
    name, given, config = evaluation.attack[0], evaluation.given, asked.config
    counted = protocol if target.victim.randomized else None
    deployed = dict(target.content)
    if counted is not None:  # with another protocol it is another victim
        deployed["protocol"] = counted.identity()
    answer: dict[str, Any] = {"attack": [name, config["attack"]], "heads": asked.cfg.heads}
    if isinstance(suite, PrecomputedTransfer):  # the content of a set counts, not its place
        answer["attack"] = [name, suite.identities]
    if compares(suite):
        answer["chunk"] = asked.runtime.chunk
    if given != GRADIENT:  # runs from before this option keep their hash
        answer["access"] = given
    if counted is not None:
        answer["protocol"] = counted.to_record(evaluation.exact)
    if asked.cfg.draws is not None:
        answer["draws"] = asked.cfg.draws
    if asked.enough is not None:  # its chunks hold other images; how wide is enough is no part of what it is
        answer["order"] = "shuffled"
    if revisions is None:
        revisions = revisions_of(suite, evaluation.threat)
    if revisions:  # runs of the first version keep their hash
        answer["revisions"] = dict(revisions)
    if evaluation.replaced:
        answer["replaced"] = evaluation.replaced
    own = Manifest(
        heads=asked.cfg.heads,
        access=given,
        card=target.defense.card.as_dict() | {"parameters": target.parameters},
        coverage=evaluation.coverage,
        keep=asked.runtime.keep,
    )
    if revisions:
        own |= Manifest(revisions=dict(revisions))
    if evaluation.replaced:
        own |= Manifest(replaced=evaluation.replaced)
    if isinstance(suite, PrecomputedTransfer):
        own |= Manifest(sets=suite.to_record())
    if members := evaluation.victim.members:
        own |= Manifest(members=[[head.name, head.weight] for head in members])
    if counted is not None:
        own |= Manifest(protocol=cast(ProtocolFacts, counted.to_record(evaluation.exact)), bare=target.identity)
    stages = [CLEAN_STAGE, *(stage.name for stage in evaluation.stages)]
    data = {} if train is None else {"train": train.digest()}
    if evaluation.listed is not None:
        data["targets"] = f"sha256:{hashlib.sha256(evaluation.listed.numpy().tobytes()).hexdigest()}"
    return _manifest(setup, "attack", name, digest_of(deployed), answer, stages, data) | own


def certification_manifest(setup: Setup, work: Certification) -> Manifest:
    """Return the manifest of a certification run, with its hash."""
    name, certifier = work.certifier
    answer = {"certifier": [name, _told_apart(setup.request.config["certifier"])]}
    if isinstance(certifier, Claimed):  # the content of claims counts, not their place
        answer = {"certifier": [name, certifier.identity]}
    own = Manifest(
        certificate={
            "kind": certifier.kind,
            "confidence": certifier.confidence,
            "sees_label": certifier.sees_label,
        },
        heads="declared",
        card=setup.target.defense.card.as_dict(),
    )
    if isinstance(certifier, Claimed | AutoLirpa):
        own["certificate"]["origin"] = certifier.origin
    return _manifest(setup, "certificate", name, setup.target.identity, answer, [STAGE], {}) | own


def folder_of(manifest: Manifest, runs_dir: Path) -> RunFolder:
    """Return the folder of a run: data set, threat, defense, attack or certifier, hash."""
    name = manifest["name"]
    method = name["certifier" if manifest["kind"] == "certificate" else "attack"]
    return RunFolder(Path(runs_dir, name["dataset"], name["threat"], name["defense"], method, manifest["config_hash"]))


def _told_apart(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a certifier's configuration tells its runs apart, so that those of version 0.1.0 keep their hash:
    it had no `bound`, and a rule without looks uses none of what is about looks.
    """
    if "bound" not in node:
        return dict(node)
    kept = {key: value for key, value in node.items() if key != "bound" or value != UNION}
    if node["rule"] not in ("decide", "grid"):
        kept = {key: value for key, value in kept.items() if key != "bound" or value == RANDOMIZED} | UNUSED_LOOKS
    return kept


def _classes(dataset: Dataset) -> dict[str, Any]:
    """Return how many classes there are, and their names where the data set has as many."""
    asked = getattr(dataset, "class_names", tuple)  # a user's own data set need not have it
    names = [printable(name)[:1000] for name in asked()]
    return {"classes": dataset.classes, **({"class_names": names} if len(names) == dataset.classes else {})}


def _labels(dataset: Dataset) -> dict[str, str]:
    """Return where the labels come from, where that is not the data set."""
    return {"labels": "predicted"} if getattr(dataset, "predicted_labels", False) else {}


def refuse_another(recorded: Manifest, mine: Manifest, folder: Path) -> None:
    """Refuse a folder that holds another run."""
    for key in ("config_hash", "victim", "stages"):
        if recorded.get(key) != mine.get(key):
            raise UserError(f"{folder} holds another run ({key} differs); move it away or use another runs_dir")


def _manifest(
    setup: Setup,
    kind: str,
    method: str,
    victim: str,
    answer: Mapping[str, Any],
    stages: Sequence[str],
    more_data: Mapping[str, str],
) -> Manifest:
    """Return what the manifests of both kinds hold. answer: what else changes the answer, beside what both share."""
    asked, dataset, split = setup.request, setup.dataset, setup.split
    threat, chunk = asked.threat, asked.runtime.chunk
    data = {"digest": split.digest(), "selection": split.selection(), **more_data}
    shared = {
        "victim": victim,
        "data": data,
        "threat": [threat.norm, threat.label, threat.low, threat.high],
        "seed": asked.seed,
        "schema": SCHEMA_VERSION,
    }
    named = {key: asked.cfg[key] for key in OWN if asked.cfg[key] is not None}
    if code := code_digest(named, setup.target.victim.modules):  # runs of this package's code alone keep their hash
        shared["code"] = code
    commit, dirty = provenance.commit()
    return Manifest(
        schema_version=SCHEMA_VERSION,
        status="running",
        kind=kind,
        name=cast(
            RunNames,
            {
                "dataset": dataset.name.replace("/", "-"),
                "threat": threat.label,
                "defense": asked.choice("defense").replace("/", "-"),
                "certifier" if kind == "certificate" else "attack": method.replace("/", "-"),
                "model": model_name(asked.cfg, asked.choices),
            },
        ),
        command=asked.command,
        config=asked.recorded,
        config_hash=digest_of(shared | dict(answer)),
        victim=victim,
        threat={
            "norm": threat.norm,
            "eps": str(threat.eps),
            "radius": None if threat.unbounded else threat.radius,
            "low": threat.low,
            "high": threat.high,
            **cast(ThreatFacts, threat.shape),
            **({"target": threat.target} if threat.targeted else {}),
        },
        dataset=cast(
            DataFacts, {"name": dataset.name, **data, "samples": len(split), **_classes(dataset), **_labels(dataset)}
        ),
        weights=setup.target.weights,
        networks=cast(dict[str, NetworkFacts], setup.target.networks),
        **description(asked.cfg),
        stages=list(stages),
        chunk=chunk,
        chunks=-(-len(split) // chunk),
        seed=asked.seed,
        commit=commit,
        dirty=dirty,
        versions=provenance.versions(),
        device=provenance.describe(setup.device),
        started=provenance.now(),
        flags=[],
        failures=[],
    )

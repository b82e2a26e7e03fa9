"""A run rebuilt from its recorded configuration, and where its manifest differs from what that gives.

The rebuilt evaluation, never the record, says what the run should hold: its threat, stages, samples and chunks.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from gauntlet.certification.claimed import CLAIMS, Claimed
from gauntlet.certification.smoothing import UNION
from gauntlet.config.environment import refuse_foreign
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.data.dataset import Dataset
from gauntlet.errors import NotTrained, UserError
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.recorded_command import shown_command
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.stable_names import from_record, place_of
from gauntlet.jobs import attack_setup, certification_job
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.jobs.certification_job import CertificationSetup
from gauntlet.jobs.setup import KEYS, LATER

COMPARED = (
    "schema_version", "kind", "name", "config_hash", "victim", "threat", "heads", "access", "dataset", "weights",
    "stages", "coverage", "sets", "members", "chunk", "chunks", "seed", "certificate",
)  # fmt: skip
DEFAULTS = {"coverage": "standing", "access": "gradient"}
"""What a manifest that does not say so means."""
MISSING: dict[str, Any] = {
    "access": DEFAULTS["access"], "surrogates": {}, "draws": None, "certifier": None, "attack": None,
    "protocol": {"_target_": "gauntlet.evaluation.randomized_protocol.Protocol"},
}  # fmt: skip
"""What a configuration that does not say so means."""
CLAIMED = f"{Claimed.__module__}.{Claimed.__name__}"
STORED = "gauntlet.transfer.precomputed.Stored"
TEXTS = ("summary", "source", "claim", "differs")
"""Keys of the card that may be worded anew without another result."""


LONE = 2
"""Names of the path that agree with a run's place, below which the folder counts as copied out of its runs folder."""

PLACES = re.compile(r"dataset\.[\w.]+|checkpoint|runs_dir|(attack|defense|surrogates)(\.[\w-]+)*\.(path|weights)")
"""Keys that say where something lies."""


@dataclass(frozen=True)
class Local:
    """What the one who verifies says of this machine; what the run says of it counts for nothing.

    Attributes:
        trust: packages beyond gauntlet's that the configuration of a run may call.
        env: variables of the environment that it may read.
        places: key -> value, in place of those recorded, of what lies elsewhere here.
        data: the data set, where that of the configuration is not to be read.
        model: what makes the network of a run that Python code handed it to, as FILE.py:FUNCTION.
    """

    trust: Sequence[str] = ()
    env: Sequence[str] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    data: Dataset | None = None
    model: str | None = None


HERE = Local()
"""Nothing lies elsewhere, and nothing is trusted."""


def rebuild(
    run: RunFolder, manifest: Manifest, local: Local = HERE, fold: bool = False
) -> AttackSetup | CertificationSetup:
    """Return the evaluation or certification of a run, from its configuration. Trains nothing.

    Trained weights are looked for beside the folder of the run, wherever that has been moved:
    `<runs_dir>/<data set>/<threat>/<defense>/<attack>/<hash>` has its cache in `<runs_dir>/_trained`.

    Args:
        fold: whether gradients come from BN-fused copies where those of the run did.

    Raises:
        UserError: configuration, data or weights are no longer there, or the run needs a package that is not trusted.
    """
    config = dict(from_record(manifest["config"]))
    above = run.path.resolve().parents
    config["runs_dir"] = str(above[min(4, len(above) - 1)])
    attack = config.get("attack")
    if isinstance(attack, dict) and attack.get("_target_") == STORED:  # a set goes with its runs folder
        beside = Path(config["runs_dir"], "_sets", Path(str(attack.get("path"))).name)
        config["attack"] = attack | {"path": str(beside)} if beside.is_dir() else attack
    certifier = config.get("certifier")
    if isinstance(certifier, dict) and certifier.get("_target_") == CLAIMED:  # and so do claims
        file = Path(config["runs_dir"], CLAIMS, Path(str(certifier.get("path"))).name)
        config["certifier"] = certifier | {"path": str(file)} if file.is_file() else certifier
    config["logger"] = {"_target_": "gauntlet.tracking.NoTracker"}
    refuse_foreign(config, local.env)
    recorded: Any = OmegaConf.create(config)
    for key, default in MISSING.items():
        recorded.setdefault(key, default)
    for key in LATER:
        recorded.setdefault(key, None)
    if recorded.certifier and "ratio" in recorded.certifier:  # before 0.2.0 there was one bound
        recorded.certifier.setdefault("bound", UNION)
    lacking = [key for key in KEYS if key not in recorded]
    if lacking:
        raise UserError(f"its config lacks {lacking[0]}; run again")
    foreign = [str(name) for name in recorded.trusted_packages if name not in local.trust]
    if foreign:
        raise UserError(f"the run calls code of {foreign[0]}; if you trust it, add --trust {foreign[0]}")
    device = "cpu" if manifest["device"].startswith("cpu") else "auto"
    folded = fold and bool(recorded.runtime.get("fold", True))
    recorded.runtime.update(progress=False, fold=folded, shards=1, shard=0, device=device, devices=None)
    _place(recorded, local.places)
    cfg = checked(recorded, KEYS)
    data = local.data or build(cfg.dataset)
    for place in ("defense", *(f"surrogates.{name}" for name in cfg.surrogates)):
        order = load_order(OmegaConf.select(cfg, place), data, Path(cfg.runs_dir) / "_trained", shown_command(manifest))
        if order:  # run.json is ordered by key: what a part uses may come after it
            node = OmegaConf.select(recorded, place)
            node.parts = {name: node.parts[name] for name in order}
    names = {key: str(value) for key, value in manifest["name"].items()}
    if manifest["kind"] == "attack":
        revisions = manifest.get("revisions", {})
        sets = [str(facts.get("set")) for facts in manifest.get("sets", {}).values()]
        return attack_setup.prepare(recorded, names, manifest["command"], local.data, revisions, sets)
    return certification_job.prepare(recorded, names, manifest["command"], local.data)


def _place(recorded: Any, places: Mapping[str, str]) -> None:
    """Put what lies elsewhere here in the place of what is recorded."""
    own = [node for node in _nodes(recorded) if node.get("weights") and node.weights == recorded.checkpoint]
    for key, value in places.items():
        if not PLACES.fullmatch(key):
            raise UserError(f"--set {key}=... is no place; give dataset.path, checkpoint, runs_dir or attack.path")
        if key == "checkpoint":
            for node in own:
                node.weights = value
            recorded.checkpoint = value
        elif OmegaConf.select(recorded, key.rpartition(".")[0] or "runs_dir") is None:
            raise UserError(f"--set {key}=...: the run has no {key.rpartition('.')[0]}; leave it out")
        else:
            OmegaConf.update(recorded, key, OmegaConf.from_dotlist([f"value={value}"])["value"])


def _nodes(node: Any) -> Iterator[Any]:
    if isinstance(node, DictConfig):
        yield node
        for key in node:
            yield from _nodes(node[key])


def discrepancies(run: RunFolder, manifest: Manifest, fresh: Manifest) -> list[str]:
    """Return one line for each part of the manifest, and of the path, that is not what the configuration gives.

    fresh: the manifest as the rebuilt job would begin the run.
    """
    wanted: dict[str, Any] = json.loads(json.dumps(fresh))
    found: dict[str, Any] = dict(manifest)
    for each in (wanted, found):  # the name of the model is free text
        each["name"] = {key: value for key, value in each["name"].items() if key != "model"}
    problems = [
        f"run.json: {key} is {_short(found.get(key))}, configuration, data and weights give {_short(wanted.get(key))}"
        for key in COMPARED
        if found.get(key, DEFAULTS.get(key)) != wanted.get(key, DEFAULTS.get(key))
    ]
    if any(found["card"].get(key) != value for key, value in wanted["card"].items() if key not in TEXTS):
        problems.append("run.json: the card is not that of the defense")
    place = place_of_run(wanted)
    if list(run.path.resolve().parts[-5:]) != place and not is_lone(run, wanted):
        problems.append(f"the folder is not the one of this run, which is {'/'.join(place)}")
    groups = [group for group in ("defense", "attack", "certifier") if group in manifest["name"]]
    return problems + [
        f"run.json: its {group} is called {found['name'][group]}, but is {_component(manifest, group)}"
        for group in groups
        if _target(group, found["name"][group]) not in (None, _component(manifest, group))
    ]


def place_of_run(manifest: Mapping[str, Any]) -> list[str]:
    """Return the names of the folders of a run below its runs folder."""
    name = manifest["name"]
    method = name["certifier" if manifest["kind"] == "certificate" else "attack"]
    return [name["dataset"], name["threat"], name["defense"], method, manifest["config_hash"]]


def is_lone(run: RunFolder, manifest: Mapping[str, Any]) -> bool:
    """Return whether the folder was copied out of its runs folder, so that where it lies says nothing."""
    pairs = zip(run.path.resolve().parts[-5:-1], place_of_run(manifest)[:-1], strict=False)
    return sum(mine == its for mine, its in pairs) < LONE


def _component(manifest: Manifest, group: str) -> str:
    return place_of(str(manifest["config"][group]["_target_"]))


def load_order(node: DictConfig, dataset: Dataset, cache: Path, command: str) -> list[str]:
    """The names of the parts of a defense in an order in which they can be loaded; each can, without any training."""
    defense = build(node)
    models: dict[str, nn.Module] = {}
    waiting = dict(defense.parts)
    while waiting:
        name = next((n for n, part in waiting.items() if all(other in models for other in part.uses)), None)
        if name is None:
            raise UserError(f"the parts {', '.join(waiting)} of the defense wait for parts that are not there")
        part = waiting.pop(name)
        try:
            given = {other: models[other] for other in part.uses}
            models[name] = part.load(dataset, cache, given=given, train=False).module
        except NotTrained as cause:
            raise NotTrained(f"the weights of {name} are gone ({cause}); train them again with: {command}") from None
    return list(models)


def _target(group: str, name: str) -> str | None:
    """What a choice that comes with the program stands for; None for a choice of the user's own."""
    path = Path(CONF) / group / f"{name}.yaml"
    if "/" in name or not path.is_file():
        return None
    node = OmegaConf.load(path)
    return str(node["_target_"]) if isinstance(node, DictConfig) and "_target_" in node else None


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 300 else f"{text[:300]}..."

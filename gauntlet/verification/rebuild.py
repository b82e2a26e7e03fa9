"""A run rebuilt from its recorded configuration, and where its manifest differs from what that gives.

The rebuilt evaluation, never the record, says what the run should hold: its threat, stages, samples and chunks.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from gauntlet.config.environment import refuse_foreign
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.errors import UserError
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.recorded_command import shown_command
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.stable_names import from_record, place_of
from gauntlet.jobs.attack_setup import AttackSetup, prepare
from gauntlet.jobs.setup import KEYS, LATER

COMPARED = (
    "schema_version", "kind", "name", "config_hash", "victim", "threat", "heads", "access", "dataset", "weights",
    "stages", "coverage", "sets", "members", "chunk", "chunks", "seed",
)  # fmt: skip
DEFAULTS = {"coverage": "standing", "access": "gradient"}
"""What a manifest that does not say so means."""
TEXTS = ("summary", "source", "claim")
"""Keys of the card that may be worded anew without another result."""


def rebuild(run: RunFolder, manifest: Manifest, trust: Sequence[str] = (), env: Sequence[str] = ()) -> AttackSetup:
    """The evaluation of a run, from its configuration. Trains nothing.

    Trained weights are looked for beside the folder of the run, wherever that has been moved:
    `<runs_dir>/<data set>/<threat>/<defense>/<attack>/<hash>` has its cache in `<runs_dir>/_trained`.

    Args:
        trust: packages that the one who asks trusts; what the run says of that counts for nothing, since it may be
            somebody else's, and its configuration names code to call.
        env: variables of the environment that its configuration may read.

    Raises:
        UserError: configuration, data or weights are no longer there, or the run needs a package that is not trusted.
    """
    config = dict(from_record(manifest["config"]))
    above = run.path.resolve().parents
    config["runs_dir"] = str(above[min(4, len(above) - 1)])
    config["logger"] = {"_target_": "gauntlet.tracking.NoTracker"}
    refuse_foreign(config, env)
    recorded: Any = OmegaConf.create(config)
    recorded.setdefault("access", DEFAULTS["access"])
    recorded.setdefault("surrogates", {})
    recorded.setdefault("draws", None)
    recorded.setdefault("certifier", None)
    recorded.setdefault("protocol", {"_target_": "gauntlet.evaluation.randomized_protocol.Protocol"})
    for key in LATER:
        recorded.setdefault(key, None)
    lacking = [key for key in KEYS if key not in recorded]
    if lacking:
        raise UserError(f"its config lacks {lacking[0]}; run again")
    foreign = [str(name) for name in recorded.trusted_packages if name not in trust]
    if foreign:
        raise UserError(f"the run calls code of {foreign[0]}; if you trust it, add --trust {foreign[0]}")
    device = "cpu" if manifest["device"].startswith("cpu") else "auto"
    recorded.runtime.update(progress=False, fold=False, shards=1, shard=0, device=device, devices=None)
    cfg = checked(recorded, KEYS)
    for place in ("defense", *(f"surrogates.{name}" for name in cfg.surrogates)):
        order = _found(
            OmegaConf.select(cfg, place), cfg.dataset, Path(cfg.runs_dir) / "_trained", shown_command(manifest)
        )
        if order:  # run.json is ordered by key: what a part uses may come after it
            node = OmegaConf.select(recorded, place)
            node.parts = {name: node.parts[name] for name in order}
    names = {key: str(manifest["name"].get(key)) for key in ("defense", "attack", "model")}
    return prepare(recorded, names, manifest["command"])


def discrepancies(run: RunFolder, manifest: Manifest, job: AttackSetup) -> list[str]:
    """One line for each part of the manifest, and of the path, that is not what the configuration gives."""
    fresh: dict[str, Any] = json.loads(json.dumps(job.manifest))
    found: dict[str, Any] = dict(manifest)
    for each in (fresh, found):  # the name of the model is free text
        each["name"] = {key: value for key, value in each["name"].items() if key != "model"}
    problems = [
        f"run.json: {key} is {_short(found.get(key))}, configuration, data and weights give {_short(fresh.get(key))}"
        for key in COMPARED
        if found.get(key, DEFAULTS.get(key)) != fresh.get(key, DEFAULTS.get(key))
    ]
    card = fresh["card"]
    if any(found["card"].get(key) != value for key, value in card.items() if key not in TEXTS):
        problems.append("run.json: the card is not that of the defense")
    name = fresh["name"]
    place = [name["dataset"], name["threat"], name["defense"], name["attack"], fresh["config_hash"]]
    if list(run.path.resolve().parts[-5:]) != place:
        problems.append(f"the folder is not the one of this run, which is {'/'.join(place)}")
    return problems + [
        f"run.json: its {group} is called {name[group]}, but is {place_of(manifest['config'][group]['_target_'])}"
        for group in ("defense", "attack")
        if _target(group, name[group]) not in (None, place_of(manifest["config"][group]["_target_"]))
    ]


def _found(node: DictConfig, data: DictConfig, cache: Path, command: str) -> list[str]:
    """The names of the parts of a defense in an order in which they can be loaded; each can, without any training."""
    dataset, defense = build(data), build(node)
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
        except UserError as cause:
            if part.weights is not None:
                raise
            raise UserError(f"the weights of {name} are gone ({cause}); train them again with: {command}") from None
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

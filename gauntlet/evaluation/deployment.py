"""A defense from its configuration to what can be attacked: weights loaded or trained, deployed, known by a hash."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from gauntlet.config.runtime import Runtime
from gauntlet.config.validate import build
from gauntlet.data.dataset import Dataset
from gauntlet.evidence.digest import digest_of
from gauntlet.evidence.stable_names import to_record
from gauntlet.models.batchnorm_folding import folded
from gauntlet.models.layers import frozen
from gauntlet.threat_model.victim import Victim
from gauntlet.threat_model.watched_forward import watched
from gauntlet.tracking import Tracker


@dataclass(frozen=True)
class Deployed:
    """A defense with its weights in place.

    Attributes:
        defense: as it was built.
        victim: in eval mode, on the device.
        twin: the same defense over copies of its networks with batch norm folded away; None where that is not wanted.
        weights: part -> digest.
        content: configuration of the defense, with the digests of its weights in place of how they come about.
    """

    defense: Any
    victim: Victim
    twin: Victim | None
    weights: dict[str, str]
    content: dict[str, Any]

    @property
    def identity(self) -> str:
        """Hash of the content: equal means the same model."""
        return digest_of(self.content)

    @property
    def parameters(self) -> int:
        """Number of parameters of all networks."""
        return sum(p.numel() for module in self.victim.modules for p in module.parameters())


def deploy(
    node: DictConfig, dataset: Dataset, cache: Path, runtime: Runtime, device: torch.device, tracker: Tracker
) -> Deployed:
    """Build the defense of a checked node and load its parts, training those that are not there.

    Args:
        cache: folder of trained networks.

    Raises:
        UserError: the node, a model or its weights are unfit.
    """
    defense = build(node)
    models: dict[str, nn.Module] = {}
    weights: dict[str, str] = {}
    for name, part in defense.parts.items():
        part.check_source()
        given = {other: models[other] for other in part.uses}
        trained = part.load(dataset, cache, given=given, device=str(device), progress=runtime.progress, tracker=tracker)
        models[name], weights[name] = trained.module.to(device), trained.digest
    config: Any = to_record(OmegaConf.to_container(node))
    told = config.get("parts", {})  # a defense may leave some of them out
    parts = {name: {"model": part["model"], "weights": weights[name]} for name, part in told.items() if name in weights}
    return Deployed(
        defense=defense,
        victim=_deployed(defense, models),
        twin=_deployed(defense, {n: folded(module) for n, module in models.items()}) if runtime.fold else None,
        weights=weights,
        content={"defense": {**config, "parts": parts}},
    )


def _deployed(defense: Any, models: dict[str, nn.Module]) -> Victim:
    victim: Victim = watched(defense.deploy(models))
    for module in victim.modules:
        frozen(module)
    return victim

"""A defense from its configuration to what can be attacked: weights loaded or trained, deployed, known by a hash."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from gauntlet.config.runtime import Runtime
from gauntlet.config.validate import build
from gauntlet.data.dataset import Dataset
from gauntlet.data.fitting import FittingImages
from gauntlet.errors import described
from gauntlet.evidence.digest import digest_of
from gauntlet.evidence.stable_names import to_record
from gauntlet.models.batchnorm_folding import folded
from gauntlet.models.description import network_facts, resizing_lines
from gauntlet.models.layers import frozen
from gauntlet.threat_model.decision import relative_difference
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Victim
from gauntlet.threat_model.watched_forward import watched
from gauntlet.tracking import Tracker

log = logging.getLogger(__name__)

PROBE = 2
"""Random images on which BN-fused copies are compared with the networks."""

ROUNDING = 0.01
"""Share of the spread of the scores by which a BN-fused copy may differ."""


@dataclass(frozen=True)
class Deployed:
    """A defense with its weights in place.

    Attributes:
        defense: as it was built.
        victim: in eval mode, on the device.
        fused: the same defense over copies of its networks with batch norm folded away; None where that is not wanted.
        weights: part -> digest.
        content: configuration of the defense, with the digests of its weights in place of how they come about.
        networks: part -> what it is, for the record.
    """

    defense: Any
    victim: Victim
    fused: Victim | None
    weights: dict[str, str]
    content: dict[str, Any]
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Hash of the content: equal means the same model."""
        return digest_of(self.content)

    @property
    def parameters(self) -> int:
        """Return the number of parameters of all networks."""
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
    networks: dict[str, dict[str, Any]] = {}
    for name, part in defense.parts.items():
        part.check_source()
        given = {other: models[other] for other in part.uses if other in models}  # `load` names one that is missing
        trained = part.load(dataset, cache, given=given, device=str(device), progress=runtime.progress, tracker=tracker)
        models[name], weights[name] = trained.module.to(device), trained.digest
        lines = [*trained.lines, *resizing_lines(trained.module, dataset)]
        facts = network_facts(trained.module, dataset.channels, dataset.size)
        networks[name] = facts | {"source": trained.source, "loaded": lines}
        for line in lines:
            log.info("%s", line)
    config: Any = to_record(OmegaConf.to_container(node))
    declared = config.get("parts", {})  # a defense may leave some of them out
    parts = {name: {"model": declared[name]["model"], "weights": weights[name]} for name in declared if name in weights}
    images = FittingImages(dataset, device)
    victim = _deployed(defense, models, images)
    content: dict[str, Any] = {"defense": {**config, "parts": parts}}
    if images.digests:  # what a defense fits follows from its configuration, its weights and these images
        content["fitted_to"] = images.digests
    # What a defense has fitted belongs to the networks as they are, not to copies of them.
    folds = runtime.fold and not victim.accepts and not images.digests
    return Deployed(
        defense=defense,
        victim=victim,
        fused=_fused(defense, models, victim, dataset, device) if folds else None,
        weights=weights,
        content=content,
        networks=networks,
    )


def _fused(
    defense: Any, models: dict[str, nn.Module], victim: Victim, dataset: Dataset, device: torch.device
) -> Victim | None:
    """Return the defense over BN-fused copies of its networks; None where they do not compute the same."""
    form = (PROBE, dataset.channels, dataset.size, dataset.size)
    x = torch.rand(form, generator=torch.Generator().manual_seed(0)).to(device)
    rng = Rng(0, torch.arange(PROBE, device=device), "BN-fused copies")
    copy = _deployed(defense, {name: folded(module) for name, module in models.items()})
    with torch.no_grad():
        try:
            wanted = [head.forward(x, rng) for head in victim.heads]
        except Exception:  # of the networks themselves: the start checks say it
            return copy
        try:
            found = [head.forward(x, rng) for head in copy.heads]
            apart = max(_apart(one, other) for one, other in zip(found, wanted, strict=True))
            why = f"scores differ by {apart:.2g} of their spread" if apart > ROUNDING else ""
        except Exception as cause:  # such as a view that takes the usual order of pixels for granted
            why = described(cause)
    if why:
        log.warning("gradients come from the networks themselves, not from their BN-fused copies: %s", why)
        return None
    return copy


def _apart(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference as a share of the spread of an image's scores; 0 where the wanted scores are no
    numbers."""
    if not wanted.isfinite().all():
        return 0.0
    return float(relative_difference(found, wanted).nan_to_num(torch.inf).max())


def _deployed(defense: Any, models: dict[str, nn.Module], images: FittingImages | None = None) -> Victim:
    """Return the victim in eval mode. images: what the defense may fit itself to; None: it is not to fit anything."""
    for module in models.values() if images else ():
        frozen(module)  # what is fitted to the networks is fitted to them as they are deployed
    fits = images is not None and hasattr(defense, "fitted")  # a class of the user's need not know of fitting
    victim: Victim = watched(defense.fitted(models, images) if fits else defense.deploy(models))
    for module in victim.modules:
        frozen(module)
    return victim

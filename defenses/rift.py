"""RiFT: a robust network, and a part of the way to what it becomes when one module is tuned on clean images."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from gauntlet.data.fitting import FittingImages
from gauntlet.defenses.base import Card, Defense
from gauntlet.errors import UserError
from gauntlet.knobs import knob
from gauntlet.models.weight_arithmetic import interpolated
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Victim, plain
from gauntlet.training.inner_attack import InnerPGD

log = logging.getLogger(__name__)

SHARES = [number / 10 for number in range(11)]


@dataclass(frozen=True, kw_only=True)
class RobustCriticalTuning(Defense):
    """(1 - share) robust + share tuned, weight by weight (Zhu et al. 2023, arXiv 2308.02533).

    Args:
        parts: "robust", any network; "tuned", the same after the recipe `rift`, which uses the first.
        share: in [0, 1]; null: of 0, 0.1 ... 1 that with the best clean accuracy on validation images whose accuracy
            under attack is at most `drop` below that of the robust network; of equals the smallest.
        drop: >= 0; one image in a thousand is 0.001.
        attack: on the validation images.
        limit: validation images, >= 1; null: all.

    Raises:
        UserError: a value outside its range, or networks of different architectures.
    """

    card: ClassVar[Card] = Card(
        "A robust network with one module moved towards what clean images make of it.",
        source="Zhu et al. 2023, arXiv 2308.02533",
        claim="the robustness of the network it begins with, and more accuracy on clean images",
        differs="module and share are chosen on validation images, where the released code takes test images, and "
        "batch-norm statistics stay as they are",
    )
    names: ClassVar[tuple[str, ...]] = ("robust", "tuned")

    share: float | None = knob(None, least=0, most=1, whole=False, optional=True, hint="null chooses by validation")
    drop: float = knob(0.001, least=0)
    attack: InnerPGD
    limit: int | None = knob(1000, least=1, optional=True, hint="null uses all images")

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        if self.share is None:
            raise UserError("defense.share=null is chosen on validation images; give a number in [0, 1] without them")
        return _alone(interpolated(models["robust"], models["tuned"], self.share))

    def fitted(self, models: Mapping[str, nn.Module], images: FittingImages) -> Victim:
        if self.share is not None:
            return self.deploy(models)
        least = self._accuracy(models["robust"], images, attacked=True) - self.drop
        clean = {share: self._accuracy(_mixed(models, share), images, attacked=False) for share in SHARES}
        for share in sorted(SHARES, key=lambda one: (-clean[one], one)):  # the first that is robust enough is the best
            model = _mixed(models, share)
            if share == 0 or self._accuracy(model, images, attacked=True) >= least:
                log.info("RiFT goes %g of the way, by validation images", share)
                return _alone(model)
        raise AssertionError("share 0 is the robust network")

    def _accuracy(self, model: nn.Module, images: FittingImages, *, attacked: bool) -> float:
        """Return the accuracy on validation images, clean or attacked."""
        right = total = 0
        for ids, x, y in images.batches("validation", self.limit):
            z = self.attack(model, x, y, Rng(0, ids, "rift")) if attacked else x
            with torch.no_grad():
                right += int((model(z).argmax(1) == y).sum())
            total += len(y)
        if not total:
            raise UserError("defense.share=null is chosen on validation images, and there are none; give a number")
        return right / total


def _mixed(models: Mapping[str, nn.Module], share: float) -> nn.Module:
    return interpolated(models["robust"], models["tuned"], share)


def _alone(model: nn.Module) -> Victim:
    return Victim(plain(model), (model,), mechanism=model)

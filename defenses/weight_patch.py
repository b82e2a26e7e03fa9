"""Robust weight signatures: what robust training did to the weights, added to another network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gauntlet.defenses.base import Card, Defense
from gauntlet.errors import UserError
from gauntlet.knobs import knob
from gauntlet.models.weight_arithmetic import module_named, patched, signature
from gauntlet.threat_model.victim import Victim, plain


@dataclass(frozen=True, kw_only=True)
class WeightPatch(Defense):
    """target + share (robust - standard), weight by weight (robust weight signatures; Cai et al. 2023, arXiv
    2302.12480).

    Args:
        parts: "standard" and "robust", from one start by two recipes; and, where another network than the first is
            patched, "target", of the same architecture.
        share: any number; 0 leaves the target as it is.
        modules: names of modules that are patched, with all below them; null: all. The authors patch the first layers.
        projected: take from the difference its component along what standard training did, which needs the first
            weights of the two: both are trained here, by one seed.

    Raises:
        UserError: other parts, no such module, networks of different architectures, or first weights that are unknown.
    """

    card: ClassVar[Card] = Card(
        "A network with the difference between a robust and a standard network added to its weights.",
        source="Cai et al. 2023, arXiv 2302.12480",
        claim="none against adversaries: its authors claim robustness to corruptions",
        differs="the robust network is one of adversarial training, where the authors have one trained on corrupted "
        "images; batch-norm statistics go towards those of the robust network by the same share",
    )
    names: ClassVar[tuple[str, ...] | None] = None

    share: float = knob(0.5)
    modules: list[str] | None = None
    projected: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.parts) not in ({"standard", "robust"}, {"standard", "robust", "target"}):
            given = ", ".join(self.parts) or "none"
            raise UserError(f"defense.parts must be standard, robust, and at will target, not {given}")
        if self.projected and not self._one_start():
            raise UserError(
                "defense.projected=true needs the first weights, which checkpoints do not tell; set it to false, or "
                "have standard and robust trained by one seed"
            )

    def _one_start(self) -> bool:
        standard, robust = self.parts["standard"], self.parts["robust"]
        return (
            standard.weights is None
            and robust.weights is None
            and standard.seed == robust.seed
            and standard.model == robust.model
        )

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        standard = models["standard"]
        first = self.parts["standard"].first_network() if self.projected else None
        target = models.get("target", standard)
        for name in self.modules or ():
            module_named(target, name, "defense.modules")
        patch = signature(models["robust"], standard, first)
        model = patched(target, patch, self.share, self.modules, models["robust"])
        return Victim(plain(model), (model,), mechanism=model)

"""CrossMax over the layers of one network that sees each image at several resolutions, randomly changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from gauntlet.defenses.base import Card, Defense
from gauntlet.defenses.crossmax import check_bids, crossmax, means
from gauntlet.errors import UserError
from gauntlet.knobs import knob
from gauntlet.models.linear_probes import Behind, Probed, Probes
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head, Victim
from gauntlet.training.objectives.multi_resolution import ResolutionStack

LEAST = 20
"""Fewest draws of an honest gradient, those of AutoAttack's random version (arXiv 2411.14834)."""


@dataclass(frozen=True)
class CrossMaxSelf(Defense):
    """The multi-resolution self-ensemble: `crossmax` over a backbone and probes on its layers, on one random stack.

    Args:
        parts: "model", a `gauntlet.models.linear_probes.Probed` trained by the recipe `self_ensemble`; or "backbone"
            and "probes", trained one after the other, the second a `gauntlet.models.linear_probes.Probes`.
        stack: how images are stacked, as in training.
        k: the bid that counts; null: the median of the predictors.
        draws: stacks over which a gradient of any head is averaged, >= 20; `draws=n` on the command line raises it.

    Raises:
        UserError: draws below 20, or other parts; on deployment, k out of range, or a network without probes.
    """

    card: ClassVar[Card] = Card(
        "The layers of one network vote on a random stack of resolutions; a class scores its k-th best bid.",
        source="Fort and Lakshminarayanan 2024, arXiv 2408.05446",
        claim="white-box linf attacks; broken by Zhang et al. 2024, arXiv 2411.14834",
        randomized=True,
    )
    names: ClassVar[tuple[str, ...] | None] = None

    stack: ResolutionStack = field(default_factory=ResolutionStack)
    k: int | None = knob(3, least=2, optional=True, hint="every best bid is 0; null is the median")
    draws: int = knob(20, least=20, hint="with fewer the gradient of a random stack is noise")

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.parts) not in ({"model"}, {"backbone", "probes"}):
            given = ", ".join(self.parts) or "none"
            raise UserError(f"defense.parts must be model, or backbone and probes, not {given}")

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        model = _ensemble(models)
        names = [*(f"probe_{number}" for number in range(len(model.probes))), "backbone"]
        check_bids(len(names), self.k)

        def predictors(x: Tensor, rng: Rng) -> Tensor:
            logits: Tensor = model(self.stack(x, rng.stream("stack")))
            return logits.transpose(0, 1)

        def predict(x: Tensor, rng: Rng) -> Tensor:
            return crossmax(predictors(x, rng), self.k)

        def alone(number: int, x: Tensor, rng: Rng) -> Tensor:
            return predictors(x, rng)[number]

        heads = (*means(predictors), *(Head(name, partial(alone, n)) for n, name in enumerate(names)))
        surrogates = tuple(replace(head, draws=self.draws) for head in heads)
        return Victim(predict, tuple(models.values()), surrogates, randomized=True, draws=self.draws)


def _ensemble(models: Mapping[str, nn.Module]) -> Behind:
    """Return the network of all predictors. Raises UserError where it is none."""
    probes = models.get("probes", models.get("model"))
    if "probes" in models and isinstance(probes, Probes):
        return Behind(models["backbone"], probes)
    if "model" in models and isinstance(probes, Probed):
        return probes
    wanted = "gauntlet.models.linear_probes.Probes" if "probes" in models else "gauntlet.models.linear_probes.Probed"
    raise UserError(f"defense=crossmax_self needs {wanted}, not {type(probes).__name__}")

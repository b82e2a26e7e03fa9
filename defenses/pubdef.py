"""Training against the transfer attacks of public networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gauntlet.defenses.base import Card, Defense
from gauntlet.errors import UserError
from gauntlet.threat_model.victim import Victim, plain
from gauntlet.training.objectives.pubdef import GROUPS


@dataclass(frozen=True)
class PubDef(Defense):
    """A network trained on adversarial examples of source networks, which are not deployed; the recipe is `pubdef`.

    Args:
        parts: "model", and the sources that it uses: normal, linf, l2, corruption.

    Raises:
        UserError: no model, or parts of other names.
    """

    card: ClassVar[Card] = Card(
        "A network trained on images and on adversarial examples of other, public networks.",
        source="Sitawarin et al. 2024, arXiv 2310.17645",
        claim="transfer attacks from public networks, without queries; white-box accuracy near zero is by design",
        differs="one source for each group, which is given and not chosen by a heuristic; sources on digits have the "
        "architecture of the network, and none is trained against l2",
    )
    names: ClassVar[tuple[str, ...] | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = set(self.parts)
        if "model" not in given or given - {"model", *GROUPS}:
            named = ", ".join(sorted(given)) or "none"
            raise UserError(f"defense.parts must be model, and at will {', '.join(GROUPS)}; not {named}")

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        model = models["model"]
        return Victim(plain(model), (model,), mechanism=model)

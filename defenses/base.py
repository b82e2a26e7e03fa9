"""What every defense shares: its trained parts, its deployment, and its card."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from torch import nn

from gauntlet.data.fitting import FittingImages
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs
from gauntlet.threat_model.victim import Victim, plain
from gauntlet.training.trained_network import TrainedNetwork


@dataclass(frozen=True)
class Card:
    """What a reader of a result must know about a defense.

    Args:
        summary: one sentence.
        source: paper and arXiv id; empty where there is none.
        claim: the threat for which its authors claim robustness, in words.
        forwards: cost of a prediction in forward passes of one base network.
        certificate: what certifies its predictions; "none".
        randomized: whether predictions are random.
        differs: in what this defense, or the training of its parts, is not the published one; empty where it is, or
            where nothing was published.
    """

    summary: str
    source: str = ""
    claim: str = "none"
    forwards: float = 1.0
    certificate: str = "none"
    randomized: bool = False
    differs: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields; `differs` only where there is something to say, as in older records."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("differs", "")}


@dataclass(frozen=True)
class Defense(Knobs, key="defense"):
    """A defense around its trained parts.

    A subclass says what is deployed, and how to attack it: `deploy` returns a Victim whose heads are the views that an
    informed attacker needs. Heads can only add attacks. A subclass with other parts than one "model" names them in
    `names`, None where any will do; one that checks its values calls `super().__post_init__()` first.

    Args:
        parts: name -> how each network is obtained.

    Raises:
        UserError: parts of other names than those.
    """

    card: ClassVar[Card]
    names: ClassVar[tuple[str, ...] | None] = ("model",)

    parts: dict[str, TrainedNetwork] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(getattr(self, "card", None), Card):
            raise UserError(f"{type(self).__name__} has no card; give the class card = Card(SUMMARY), a ClassVar")
        if self.names is not None and set(self.parts) != set(self.names):
            raise UserError(f"defense.parts must be {', '.join(self.names)}, not {', '.join(self.parts) or 'none'}")

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        """Return the deployed defense: here the only part, as it is. models: the loaded parts, from pixels to
        logits."""
        (model,) = models.values()
        return Victim(plain(model), (model,), mechanism=model)

    def fitted(self, models: Mapping[str, nn.Module], images: FittingImages) -> Victim:
        """Return the deployed defense after it has fitted what it fits, such as a threshold: here nothing.

        Args:
            models: the loaded parts, in eval mode on the device of the images.
            images: train and validation images; the test part is withheld.
        """
        return self.deploy(models)


def check_members(members: Sequence[str], parts: Mapping[str, TrainedNetwork], copies: str) -> None:
    """Refuse a member of an ensemble that is no part, or is named twice; copies: why so. Raises UserError."""
    for number, name in enumerate(members):
        if name not in parts:
            known = ", ".join(parts) or "none"
            raise UserError(f"defense.members names {name}, which is no part; there are {known}")
        if name in members[:number]:
            raise UserError(f"defense.members names {name} twice; {copies}")

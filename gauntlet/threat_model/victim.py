"""What an informed attacker may touch: the deployed pipeline, and the differentiable views that its author declares."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng

Forward = Callable[[Tensor, Rng], Tensor]
"""(images [B, C, H, W] in [0, 1], randomness) -> class scores [B, K], larger = more likely. Every random number comes
from the Rng; nothing depends on batch-mates."""

Acceptance = Callable[[Tensor, Rng], Tensor]
"""(images, randomness) -> how safely each image is accepted [B]: accepted where it is 0 or more, rejected below."""

Aim = Literal["selective", "sum", "ignored"]
"""How a head of a rejecting defense weighs being accepted; see `gauntlet.threat_model.rejection`."""


@dataclass(frozen=True)
class Head:
    """One differentiable view of a defense. Gradient attacks run on every head.

    Args:
        name: "true" for the deployed forward itself.
        forward: logits that the loss is computed on.
        exact: whether this is the deployed forward. What fools an inexact head counts only if it fools `predict`.
        draws: forward passes over which a gradient is averaged (expectation over transformation).
        weight: probability with which a mixture answers by this head, a deterministic member of it; 0: it is none.
        stand_in: whether its gradient is on purpose that of something else than its forward
            (`gauntlet.threat_model.bpda`).
        aim: of a rejecting defense: how being accepted enters the logits that the loss is computed on.
        accepts: a differentiable view of the acceptance, for this head; None: the deployed one.
    """

    name: str
    forward: Forward
    exact: bool = False
    draws: int = 1
    weight: float = 0.0
    stand_in: bool = False
    aim: Aim = "selective"
    accepts: Acceptance | None = None


@dataclass(frozen=True)
class Victim:
    """A deployed defense.

    Args:
        predict: the deployed pipeline; the only thing that judges.
        modules: the networks inside, which the evaluation puts in eval mode and on the device.
        surrogates: the inexact heads that an informed attacker needs beside the true one. Those of a mixture, which
            answers each query by a member that it draws, hold all its members; their weights sum to one.
        randomized: whether `predict` uses its Rng.
        draws: gradient draws on the true head.
        access: what the deployed defense gives away at most: gradient, score or decision.
        mechanism: what a certifier is about: the bare network where `predict` is that network alone, a description
            such as `gauntlet.certification.certifiable.Smoothed` where it is more; None: nothing certifies this
            defense.
        accepts: of a defense that may reject an image instead of answering: an attack succeeds where the prediction is
            wrong and accepted, and a clean image that is rejected counts as wrong. None: it answers always. Of a
            randomized defense it is given the same Rng as the prediction that it is about, so that both see one draw.

    Raises:
        UserError: a mixture rejects: its verdicts are exact sums over the members, which say nothing of rejection.
    """

    predict: Forward
    modules: tuple[nn.Module, ...]
    surrogates: tuple[Head, ...] = field(default=())
    randomized: bool = False
    draws: int = 1
    access: str = "gradient"
    mechanism: object = None
    accepts: Acceptance | None = None

    def __post_init__(self) -> None:
        if self.accepts is not None and self.members:
            raise UserError("a mixture cannot reject: leave out the weights of its heads, or drop accepts")

    @property
    def heads(self) -> tuple[Head, ...]:
        """Return the true head, then the surrogates; of a rejecting defense then the attack on prediction and detector
        at once, and the one that ignores the detector."""
        true = Head("true", self.predict, exact=True, draws=self.draws)
        if self.accepts is None:
            return (true, *self.surrogates)
        joint = Head("joint", self.predict, draws=self.draws, aim="sum")
        ignorant = Head("classifier", self.predict, draws=self.draws, aim="ignored")
        return (true, *self.surrogates, joint, ignorant)

    @property
    def members(self) -> tuple[Head, ...]:
        """Return the heads of which a mixture draws one for each query; none where the defense is no mixture."""
        return tuple(head for head in self.surrogates if head.weight > 0) if self.randomized else ()


def plain(module: nn.Module) -> Forward:
    """Return the forward of a deterministic network."""
    return lambda x, rng: module(x)

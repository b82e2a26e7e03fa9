"""What a certifier is: it says, sample by sample, in which ball around an image the prediction cannot change."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim

Kind = Literal["sound_prob", "sound_det", "estimate", "claimed"]
"""A proof up to the stated confidence; a proof; a number that is neither, which no table of certificates counts; what
somebody else says to have proven, which none counts either."""

ABSTAIN = -1


def _nothing(samples: int, forwards: int) -> None: ...


@dataclass(frozen=True)
class Work:
    """How the work is done; no answer depends on it.

    Args:
        batch_size: rows of a forward pass.
        advance: called with the samples that are finished and the forward passes made since the last call; no passes
            where they are not what takes the time.
    """

    batch_size: int = 256
    advance: Callable[[int, int], None] = field(default=_nothing)


@dataclass(frozen=True)
class Certificates:
    """One certificate for each sample of a batch, on the host.

    Attributes:
        predict: class int64 [B]; -1 where the certifier abstains.
        radius: float64 [B] >= 0, in the norm of the threat, rounded down: the prediction is `predict` everywhere
            within it, and in a proof of a norm ball also in what `Threat.contains` tolerates. Zero where it abstains.
        forwards: passes of one network for this sample, int64 [B]; where bounds prove it 1, the deployed prediction,
            of however many networks that is made, since bounds are no passes.
        samples: random draws used, those of the selection among them, int64 [B]; zero without randomness.
        margin: least margin of the true class over the ball, float64 [B]; NaN where that is not what was bounded.
        trials: draws behind the bound, or views that were all counted, int64 [B].
        counts: how many of these gave `predict`, one column for each network that votes, int64 [B, V].
        lower: lower confidence bounds of these shares, float64 [B, V].
        stop: why sampling ended, one word for each sample: budget, certified or futility; of branch and bound proven,
            broken, budget, time or exhausted; empty elsewhere.
        examples: position in the batch -> an image [C, H, W] inside the threat that the defense gives another class.
        maps: attributions whose stability is certified, float32 [B, C, H, W]; None: it is that of classes.
        columns: of the records beside those that all have.
    """

    predict: Tensor
    radius: Tensor
    forwards: Tensor
    samples: Tensor
    margin: Tensor
    trials: Tensor
    counts: Tensor
    lower: Tensor
    stop: Sequence[str]
    examples: Mapping[int, Tensor] = field(default_factory=dict)
    maps: Tensor | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @classmethod
    def proven(cls, predict: Tensor, radius: Tensor, margin: Tensor, forwards: Tensor) -> "Certificates":
        """Without randomness. All [B]; a radius that a float32 holds is kept as it is."""
        none = torch.zeros(len(predict), dtype=torch.int64)
        empty = torch.zeros(len(predict), 0)
        return cls(
            predict=predict.long().cpu(),
            radius=radius.double().cpu(),
            forwards=forwards.long().cpu(),
            samples=none,
            margin=margin.double().cpu(),
            trials=none,
            counts=empty.long(),
            lower=empty.double(),
            stop=[""] * len(predict),
        )


class Certifier(Protocol):
    """A frozen dataclass whose fields are its knobs.

    Attributes:
        kind: what its radii are.
        sees_label: whether it is given labels. A verifier of the true class may see them: it proves that this class
            wins. One that predicts must not. Without it y is None.
        norms: those of the threats that it can certify.
        whole: whether it is called with all samples of a chunk and fills its passes itself; else with at most
            `batch_size` samples.
    """

    kind: ClassVar[Kind]
    sees_label: ClassVar[bool]
    norms: ClassVar[tuple[str, ...]]
    whole: ClassVar[bool]

    @property
    def confidence(self) -> float:
        """Return the probability with which one certificate holds, at least; 1 for a proof."""

    def check(self, victim: Victim, threat: Threat) -> None:
        """Called once before any work.

        Raises:
            UserError: the victim has not the parts that this certifier needs, named in the message, or the threat is
                another than it can certify.
        """

    def __call__(
        self, victim: Victim, x: Tensor, y: Tensor | None, *, threat: Threat, rng: Rng, work: Work
    ) -> Certificates:
        """Certificates for images x [B, C, H, W] in [0, 1].

        What becomes of a sample must depend neither on its batch-mates nor on the size of the passes. Random numbers
        come from rng, which holds the sample ids. A radius holds in the norm of the threat; a certifier that answers
        yes or no for one ball returns the radius of the threat, or zero.
        """

"""One perturbation for all images: how it is applied, and what fitting it to training images leaves behind."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


class Images(Protocol):
    """The training images; they are read when they are asked for."""

    @property
    def ids(self) -> Tensor:
        """Return int64 [n], strictly increasing."""

    def read(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return x [B, C, H, W] and true labels int64 [B] at these positions in [0, n), in that order."""


class UniversalState(NamedTuple):
    """A fit between two steps: all that it needs to go on.

    delta: [C, H, W], inside the ball; the pixel box is the images' affair.
    labels: int64 [n], the class that each training image shall leave; -1 where it has not been asked for.
    velocity: [C, H, W], what momentum carries over.
    step, forwards, backwards: done so far; the passes are summed over the training images.
    """

    delta: Tensor
    labels: Tensor
    velocity: Tensor
    step: int = 0
    forwards: int = 0
    backwards: int = 0

    @classmethod
    def start(cls, images: Images) -> Self:
        """No perturbation yet."""
        blank = torch.zeros_like(images.read(torch.zeros(1, dtype=torch.int64))[0][0])
        return cls(blank, torch.full_like(images.ids, -1), blank)

    def paid(self, head: CountedHead) -> Self:
        """Return the state with the passes added that this head has counted."""
        counts = head.counts
        forwards, backwards = int(counts.forwards.sum()), int(counts.backwards.sum())
        return self._replace(forwards=self.forwards + forwards, backwards=self.backwards + backwards)


@dataclass(frozen=True, kw_only=True)
class Universal(Knobs, key="attack"):
    """What the universal attacks share: the perturbation is fitted first, and then added to every image.

    Args:
        images: training images to use, >= 1, chosen by the seed; null: all of them.
        delta: the fitted perturbation, [C, H, W].

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "training-set"
    coverage: ClassVar[str] = "all"  # the fooling ratio is over every image, the misclassified ones too
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    images: int | None = knob(1000, least=1, optional=True, hint="there must be something to fit to; null takes all")
    delta: Tensor | None = field(default=None, metadata={"internal": True})

    def length(self, count: int) -> int:
        """Return the steps of a whole fit to so many images. Raises UserError where they are too few."""
        raise NotImplementedError

    def fit(
        self, head: CountedHead, images: Images, *, threat: Threat, rng: Rng, state: UniversalState | None = None
    ) -> Iterator[UniversalState]:
        """Fit the perturbation, or go on from a state; yields the state after each step until `length` is reached.

        rng: its ids are those of the images.
        """
        raise NotImplementedError

    def fitted(self, delta: Tensor) -> Self:
        """Return this attack with its perturbation."""
        return replace(self, delta=delta)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]: the image plus the perturbation, inside the box."""
        if self.delta is None:
            raise ValueError("a universal attack has to be fitted before it is applied")
        return threat.project(x + self.delta.to(x), x)


def metered(head: CountedHead, ids: Tensor) -> CountedHead:
    """Return the head with a count of its own for these samples."""
    return replace(head, counts=type(head.counts).of(ids))


@torch.no_grad()
def classes_of(head: CountedHead, z: Tensor, rng: Rng) -> Tensor:
    """Return the deployed defense's classes, int64 [B], at the price of one forward for each sample."""
    head.counts.add("forwards", rng.ids)
    pieces = head.batches(torch.arange(len(z), device=z.device))
    return torch.cat([head.predict(z[piece], rng.select(piece)).argmax(1) for piece in pieces])


def shuffled(rng: Rng, epoch: int) -> Tensor:
    """Return the positions of the images in the order of the epoch: a function of their ids, the seed and the epoch."""
    return rng.stream("order").stream(epoch).bits((1,)).squeeze(1).argsort(stable=True)


def moved(delta: Tensor, by: Tensor, threat: Threat) -> Tensor:
    """Return delta + by, back inside the ball; all [C, H, W]. No pixel can change by more than the width of the box."""
    width = threat.high - threat.low
    ball = replace(threat, low=-width, high=width)
    return ball.project((delta + by)[None], torch.zeros_like(delta)[None])[0]

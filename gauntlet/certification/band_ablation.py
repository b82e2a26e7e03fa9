"""All bands of an image, one after the other: votes without randomness, and what they prove about patches."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng


@dataclass(frozen=True)
class Bands(Knobs):
    """Only `width` neighboring columns of the image are left, the rest is grey.

    Levine and Feizi 2020, arXiv 2002.10733. There is one band for each column where it may begin; those that reach the
    right edge go on at the left. Whatever happens in `side` neighboring columns is seen by side + width - 1 of them,
    and each of these can take one vote from a class and give one to another.

    Args:
        width: columns of a band, 1 to size.
        size: width of the images, in pixels.
        threshold: a band votes for every class with at least this probability, in (0, 1].

    Raises:
        UserError: a value outside its range, or images of another size.
    """

    norm: ClassVar[str] = "patch"

    GREY: ClassVar[float] = 0.5

    width: int = knob(2, least=1)
    size: int = knob(8, least=1)
    threshold: float = knob(0.3, above=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width > self.size:
            raise UserError(f"width={self.width} must be at most {self.size}, the columns of an image")

    def view(self, x: Tensor, first: Tensor | int) -> Tensor:
        """Return the band of each image x [B, C, H, W] that begins at that column; first: one number or int64 [B]."""
        if x.shape[3] != self.size:
            raise UserError(f"size={self.size} is not that of the images, {x.shape[3]} pixels wide")
        begins = torch.as_tensor(first, device=x.device).reshape(-1, 1)
        seen = (torch.arange(self.size, device=x.device) - begins) % self.size < self.width
        return torch.where(seen[:, None, None, :], x, self.GREY)

    def __call__(self, x: Tensor, rng: Rng, draw: Tensor | int) -> Tensor:
        """Return a random band of each image, for training."""
        return self.view(x, rng.integers((), self.size, draw))

    def side(self, lead: Tensor) -> Tensor:
        """Return the widest patch that cannot overturn a lead in votes, int64 like `lead`; 0: none.

        The lead stays positive while 2 (side + width - 1) < lead.
        """
        return (-torch.div(-lead, 2, rounding_mode="floor") - self.width).clamp_min(0)


@dataclass(frozen=True)
class Banded:
    """The class with the most votes of all bands; the mean probabilities decide between equals.

    Args:
        network: from images to logits, in eval mode.
        bands: what it sees.
    """

    network: nn.Module
    bands: Bands

    def logs(self, x: Tensor) -> Tensor:
        """Logarithms of the probabilities that each band gives, [size, B, K]; one pass for each band."""
        return torch.stack([self.network(self.bands.view(x, first)).log_softmax(1) for first in range(self.bands.size)])

    def votes(self, logs: Tensor) -> Tensor:
        """Bands that vote for each class, int64 [B, K]."""
        return (logs.detach().exp() >= self.bands.threshold).sum(0)

    def scores(self, logs: Tensor) -> Tensor:
        """Votes, plus half of the mean probability, which is less than a vote: [B, K]."""
        return self.votes(logs) + logs.exp().mean(0) / 2

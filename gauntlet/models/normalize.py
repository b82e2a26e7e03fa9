"""Input normalization as the first layer of a network."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gauntlet.errors import UserError

PLAIN = "as they are"
"""What a normalization by 0 and 1 says of pixels."""


class Normalize(nn.Module):
    """Pixels in [0, 1] to (x - mean) / std, per channel.

    The two buffers are not part of the state dict: their values come from the configuration, which stands in every
    record, so a checkpoint cannot change them unseen and files of other projects load strictly without such keys.

    Args:
        mean: one value for each channel, or one for all.
        std: the same, each > 0.
        channels: of the images.

    Raises:
        UserError: another number of values, a value that is not a finite number, or a std of zero or less.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int = 3) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, _constants(name, values, channels), persistent=False)

    @property
    def text(self) -> str:
        """Return the constants in words."""
        mean, std = (
            ", ".join(f"{value:.4g}" for value in constants.flatten().tolist()) for constants in (self.mean, self.std)
        )
        plain = not self.mean.any() and bool((self.std == 1).all())
        return PLAIN if plain else f"mean [{mean}], std [{std}]"

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [B, C, H, W] to the same shape."""
        return (x - self.mean) / self.std


def _constants(name: str, values: Sequence[float], channels: int) -> Tensor:
    numbers = list(values) if isinstance(values, list | tuple) else [values]
    if not all(isinstance(n, int | float) and math.isfinite(n) and (name == "mean" or n > 0) for n in numbers):
        positive = "" if name == "mean" else " greater than 0"
        raise UserError(f"model.{name}={values} must be a list of numbers{positive}, such as [0.5]")
    if len(numbers) not in (1, channels):
        raise UserError(
            f"model.{name} has {len(numbers)} values, the images have {channels} channel{'s' * (channels != 1)}; "
            "set model.mean=[0.5] and model.std=[0.25], or one value for each channel"
        )
    return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1)

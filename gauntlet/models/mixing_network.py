"""The small network that looks at the features of two classifiers and says how much to trust the robust one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gauntlet.errors import UserError


class _Block(nn.Module):
    """Pre-activation residual block of two 3x3 convolutions."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inside), nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(outside), nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        ready = self.norm1(x).relu()
        inner: Tensor = self.conv2(self.norm2(self.conv1(ready)).relu())
        outer: Tensor = self.shortcut(ready)
        return inner + outer


class MixingNetwork(nn.Module):
    """Features of an early and a late layer of both base networks -> one normalized score gamma per image.

    The shape follows the mixing network of adaptive smoothing (Bai et al., arXiv 2301.12554): residual stages on the
    early features, joined by the late ones, global average, one linear output without bias, and a batch norm without
    affine parameters on that output.

    Args:
        early, late: channels of the early and of the late features, each summed over the base networks.
        width: channels of the stages.
        clamp: in training the raw output is held within this many standard deviations of its batch mean; 0 = off.

    Raises:
        UserError: in the forward pass, features of other channels.
    """

    def __init__(self, early: int, late: int, width: int = 16, clamp: float = 0.6) -> None:
        super().__init__()
        self.clamp, self.channels = clamp, (early, late)
        self.stage1 = _Block(early, width, 1)
        self.stage2 = _Block(width + late, 2 * width, 1)
        self.norm = nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, 1, bias=False)
        self.scale = nn.BatchNorm1d(1, affine=False, momentum=0.01)

    def forward(self, early: Sequence[Tensor], late: Sequence[Tensor]) -> Tensor:
        """gamma float [B]: larger = trust the robust network more.

        early, late: features [B, C, h, w] of the base networks; those of one list have the same h and w, and early ones
        are at least as large as late ones.
        """
        front, behind = torch.cat(tuple(early), 1), torch.cat(tuple(late), 1)
        if (front.shape[1], behind.shape[1]) != self.channels:
            raise UserError(
                f"the tapped layers give {front.shape[1]} early and {behind.shape[1]} late channels, the mixing "
                f"network takes {self.channels[0]} and {self.channels[1]}; set defense.parts.mixer.model.early and late"
            )
        first = self.stage1(front)
        if first.shape[2:] != behind.shape[2:]:
            first = nn.functional.adaptive_avg_pool2d(first, (behind.shape[2], behind.shape[3]))
        joined = self.norm(self.stage2(torch.cat([first, behind], 1))).relu()
        raw: Tensor = self.head(joined.mean((2, 3)))
        if self.training and self.clamp:
            middle, spread = raw.detach().mean(), raw.detach().std(correction=0)
            raw = raw.clamp(middle - self.clamp * spread, middle + self.clamp * spread)
        gamma: Tensor = self.scale(raw)
        return gamma.squeeze(1)

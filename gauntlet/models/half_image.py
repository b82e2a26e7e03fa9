"""Half of an image in, logits out: the networks of dual randomized smoothing."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.errors import UserError

SIDES = ("left", "right")


class Half(nn.Module):
    """A network that sees every second pixel, in the pattern of a chessboard, with all channels of these pixels.

    The missing pixels get the mean of their neighbors above, below, left and right, which are all there: a function of
    the half alone, whatever lies in the other (Xia et al. 2024, arXiv 2404.09586, fill them in another way).

    Args:
        side: left (even row + column) or right; together they have every pixel once.
        network: from images to logits.

    Raises:
        UserError: another side.
    """

    def __init__(self, side: str, network: nn.Module) -> None:
        super().__init__()
        if side not in SIDES:
            raise UserError(f"model.side={side!r} is unknown; choose left or right")
        self.side, self.network = side, network

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [B, C, H, W] to logits [B, K]."""
        logits: Tensor = self.network(filled(x, kept(x.shape[2], x.shape[3], self.side, x)))
        return logits


def kept(height: int, width: int, side: str, like: Tensor) -> Tensor:
    """1 where a side has a pixel, else 0, [height, width], of the type and device of `like`."""
    rows, columns = (torch.arange(n, device=like.device) for n in (height, width))
    return ((rows[:, None] + columns) % 2 == SIDES.index(side)).to(like.dtype)


def filled(x: Tensor, mask: Tensor) -> Tensor:
    """The pixels of the mask [H, W], and means of their neighbors in between; x [B, C, H, W]."""
    cross = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=x.dtype, device=x.device)
    channels = x.shape[1]
    total = F.conv2d(x * mask, cross.expand(channels, 1, 3, 3), padding=1, groups=channels)
    number = F.conv2d(mask[None, None], cross[None, None], padding=1).clamp_min(1)
    return x * mask + total / number * (1 - mask)

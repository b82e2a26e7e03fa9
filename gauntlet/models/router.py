"""Routers of a mixture of experts: from an image to one score for each expert."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError
from models.layers import convolution, start


class ConvRouter(nn.Module):
    """Convolutions, the mean over the image, and one score for each expert.

    Args:
        body: normalised pixels to features.
        width: channels of the features.
        experts: number of scores.
        standardise: a batch norm without weights on the scores, so that no expert is chosen by the offset or the spread
            of its score alone.
    """

    def __init__(self, body: nn.Module, width: int, experts: int, standardise: bool = False) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, experts)
        self.norm = nn.BatchNorm1d(experts, affine=False) if standardise else nn.Identity()
        start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pixels [B, C, H, W] to scores [B, experts]."""
        scores: Tensor = self.norm(self.head(self.body(x).mean((2, 3))))
        return scores


class Constant(nn.Module):
    """No router: every image goes to the first expert."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] to scores [B, experts]."""
        first = torch.zeros(len(x), self.experts, dtype=x.dtype, device=x.device)
        first[:, 0] = 1
        return first


class PaddedBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes, the shortcut takes every other pixel and adds zero channels."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = convolution(inside, outside, 3, stride), nn.BatchNorm2d(outside)
        self.conv2, self.norm2 = convolution(outside, outside, 3), nn.BatchNorm2d(outside)
        self.stride, self.pad = stride, outside - inside

    def forward(self, x: Tensor) -> Tensor:
        """[B, inside, H, W] to [B, outside, H / stride, W / stride]."""
        out = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        kept = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad // 2, self.pad - self.pad // 2))
        result: Tensor = (out + kept).relu()
        return result


def make_router(kind: str, channels: int, experts: int, standardise: bool) -> nn.Module:
    """The named router; one expert needs none.

    Args:
        kind: resnet20, that of AdvMoE (arXiv 2308.10110; with two experts and three channels 269,202 parameters);
            small, two convolutions for images of 8 pixels; or constant, which is none.
        channels: of the images.
        experts: number of scores.
        standardise: see `ConvRouter`.

    Raises:
        UserError: another kind.
    """
    if kind not in ("resnet20", "small", "constant"):
        raise UserError(f"model.router={kind} is unknown; choose one of resnet20, small, constant")
    if kind == "constant" or experts == 1:
        return Constant(experts)
    if kind == "small":
        body = nn.Sequential(*_unit(channels, 8, 2), *_unit(8, 16, 2))
        return ConvRouter(body, 16, experts, standardise)
    blocks = [PaddedBlock(16, 16, 1) for _ in range(3)]
    for width in (32, 64):
        blocks += [PaddedBlock(width // 2, width, 2), *(PaddedBlock(width, width, 1) for _ in range(2))]
    return ConvRouter(nn.Sequential(*_unit(channels, 16, 1), *blocks), 64, experts, standardise)


def _unit(inside: int, outside: int, stride: int) -> tuple[nn.Module, ...]:
    return convolution(inside, outside, 3, stride), nn.BatchNorm2d(outside), nn.ReLU()

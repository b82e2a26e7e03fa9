"""Residual networks with pre-activation for 32x32 images (He et al., 2016, arXiv:1603.05027)."""

from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.layers import CIFAR_MEAN, CIFAR_STD, convolution, positive, stage, start
from gauntlet.models.layers import activation as named_activation
from gauntlet.models.normalize import Normalize

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Depth -> blocks in each of the four stages."""


class PreActBlock(nn.Module):
    """Batch norm, activation, 3x3 convolution, twice; a projected shortcut starts after the first activation."""

    def __init__(self, inside: int, outside: int, stride: int, act: str) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inside)
        self.conv1 = convolution(inside, outside, 3, stride)
        self.norm2 = nn.BatchNorm2d(outside)
        self.conv2 = convolution(outside, outside, 3)
        self.act = named_activation(act)
        self.shortcut = None if stride == 1 and inside == outside else convolution(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inside, H, W] to [B, outside, H / stride, W / stride]."""
        out = self.act(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(out)
        result: Tensor = self.conv2(self.act(self.norm2(self.conv1(out)))) + kept
        return result


class PreActResNet(nn.Module):
    """PreActResNet-18 or -34 with a 3x3 stem of stride 1; batch norm and activation once more before the head.

    Children: normalize, stem, layer1 to layer4, last, head. With ten classes the two have 11.17 and 21.28 million
    parameters.

    Args:
        classes: number of logits.
        channels: of the images.
        depth: 18 or 34.
        width: channels of the stem.
        activation: relu, silu or softplus.
        mean, std: of the pixels, one value for each channel or one for all; the defaults are those of CIFAR-10.

    Raises:
        UserError: another depth or activation, or numbers out of range.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        depth: int = 18,
        width: int = 64,
        activation: str = "relu",
        mean: tuple[float, ...] = CIFAR_MEAN,
        std: tuple[float, ...] = CIFAR_STD,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise UserError(f"model.depth={depth} is none of PreActResNet's; choose 18 or 34")
        positive(classes=classes, channels=channels, width=width)
        counts = DEPTHS[depth]
        self.normalize = Normalize(mean, std, channels)
        self.stem = convolution(channels, width, 3)
        self.layer1 = stage(PreActBlock, width, width, counts[0], 1, activation)
        self.layer2 = stage(PreActBlock, width, 2 * width, counts[1], 2, activation)
        self.layer3 = stage(PreActBlock, 2 * width, 4 * width, counts[2], 2, activation)
        self.layer4 = stage(PreActBlock, 4 * width, 8 * width, counts[3], 2, activation)
        self.last = nn.Sequential(nn.BatchNorm2d(8 * width), named_activation(activation))
        self.head = nn.Linear(8 * width, classes)
        start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [B, channels, H, W] in [0, 1], H and W at least 8, to logits [B, classes]."""
        out = self.stem(self.normalize(x))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.head(self.last(out).mean((2, 3)))
        return logits

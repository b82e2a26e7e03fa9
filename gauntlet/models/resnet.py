"""Residual networks for 32x32 images (He et al., 2015, arXiv:1512.03385)."""

from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.layers import CIFAR_MEAN, CIFAR_STD, Block, activation, convolution, positive, stage, start
from gauntlet.models.normalize import Normalize


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm; a projection on the shortcut where the shape changes."""

    def __init__(self, inside: int, outside: int, stride: int, act: str) -> None:
        super().__init__()
        self.conv1 = convolution(inside, outside, 3, stride)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = convolution(outside, outside, 3)
        self.norm2 = nn.BatchNorm2d(outside)
        self.shortcut = shortcut(inside, outside, stride)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inside, H, W] to [B, outside, H / stride, W / stride]."""
        out = self.act(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out)) + self.shortcut(x)
        result: Tensor = self.act(out)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the inner ones a quarter as wide; the 3x3 convolution has the stride."""

    def __init__(self, inside: int, outside: int, stride: int, act: str) -> None:
        super().__init__()
        width = outside // 4
        self.conv1 = convolution(inside, width, 1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, outside, 1)
        self.norm3 = nn.BatchNorm2d(outside)
        self.shortcut = shortcut(inside, outside, stride)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inside, H, W] to [B, outside, H / stride, W / stride]."""
        out = self.act(self.norm1(self.conv1(x)))
        out = self.act(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out)) + self.shortcut(x)
        result: Tensor = self.act(out)
        return result


DEPTHS: dict[int, tuple[Block, int, tuple[int, int, int, int]]] = {
    18: (BasicBlock, 1, (2, 2, 2, 2)),
    34: (BasicBlock, 1, (3, 4, 6, 3)),
    50: (Bottleneck, 4, (3, 4, 6, 3)),
}
"""Depth -> block, its expansion, blocks in each of the four stages."""


class ResNet(nn.Module):
    """ResNet-18, -34 or -50 with a 3x3 stem of stride 1 and no pooling before the first stage, as is usual at 32x32.

    Children: normalize, stem, layer1 to layer4, head. With ten classes the three have 11.17, 21.28 and 23.52 million
    parameters.

    Args:
        classes: number of logits.
        channels: of the images.
        depth: 18, 34 or 50.
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
            raise UserError(f"model.depth={depth} is none of ResNet's; choose one of {', '.join(map(str, DEPTHS))}")
        positive(classes=classes, channels=channels, width=width)
        block, expansion, counts = DEPTHS[depth]
        wide = width * expansion
        self.normalize = Normalize(mean, std, channels)
        self.stem = stem(channels, width, activation)
        self.layer1 = stage(block, width, wide, counts[0], 1, activation)
        self.layer2 = stage(block, wide, 2 * wide, counts[1], 2, activation)
        self.layer3 = stage(block, 2 * wide, 4 * wide, counts[2], 2, activation)
        self.layer4 = stage(block, 4 * wide, 8 * wide, counts[3], 2, activation)
        self.head = nn.Linear(8 * wide, classes)
        start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [B, channels, H, W] in [0, 1], H and W at least 8, to logits [B, classes]."""
        out = self.stem(self.normalize(x))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.head(out.mean((2, 3)))
        return logits


def stem(channels: int, width: int, act: str) -> nn.Sequential:
    """The first convolution of a ResNet, with its batch norm and activation."""
    return nn.Sequential(convolution(channels, width, 3), nn.BatchNorm2d(width), activation(act))


def shortcut(inside: int, outside: int, stride: int) -> nn.Module:
    """The identity, or a 1x1 convolution with batch norm where the shape changes (option B of the paper)."""
    if stride == 1 and inside == outside:
        return nn.Identity()
    return nn.Sequential(convolution(inside, outside, 1, stride), nn.BatchNorm2d(outside))

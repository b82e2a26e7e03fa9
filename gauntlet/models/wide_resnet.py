"""Wide residual networks (Zagoruyko and Komodakis, 2016, arXiv:1605.07146)."""

from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.layers import CIFAR_MEAN, CIFAR_STD, convolution, positive, stage, start
from gauntlet.models.layers import activation as named_activation
from gauntlet.models.normalize import Normalize
from gauntlet.models.preact_resnet import PreActBlock


class WideResNet(nn.Module):
    """WRN-depth-width: three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels, no dropout.

    Children: normalize, stem, layer1 to layer3, last, head. With ten classes WRN-28-10 has 36.48 and WRN-34-10 46.16
    million parameters.

    Args:
        classes: number of logits.
        channels: of the images.
        depth: 6n + 4: 10, 16, 22, 28, 34 ...
        width: how many times wider than a ResNet with 16 channels in its first stage.
        activation: relu, silu or softplus.
        mean, std: of the pixels, one value for each channel or one for all; the defaults are those of CIFAR-10.

    Raises:
        UserError: a depth that is not 6n + 4, an unknown activation, or numbers out of range.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        depth: int = 28,
        width: int = 10,
        activation: str = "relu",
        mean: tuple[float, ...] = CIFAR_MEAN,
        std: tuple[float, ...] = CIFAR_STD,
    ) -> None:
        super().__init__()
        positive(classes=classes, channels=channels, depth=depth, width=width)
        if depth < 10 or depth % 6 != 4:
            raise UserError(f"model.depth={depth} must be 6n + 4; choose 10, 16, 22, 28, 34, 40, 70 or another such")
        count, wide = (depth - 4) // 6, 16 * width
        self.normalize = Normalize(mean, std, channels)
        self.stem = convolution(channels, 16, 3)
        self.layer1 = stage(PreActBlock, 16, wide, count, 1, activation)
        self.layer2 = stage(PreActBlock, wide, 2 * wide, count, 2, activation)
        self.layer3 = stage(PreActBlock, 2 * wide, 4 * wide, count, 2, activation)
        self.last = nn.Sequential(nn.BatchNorm2d(4 * wide), named_activation(activation))
        self.head = nn.Linear(4 * wide, classes)
        start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [B, channels, H, W] in [0, 1], H and W at least 4, to logits [B, classes]."""
        out = self.stem(self.normalize(x))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.head(self.last(out).mean((2, 3)))
        return logits

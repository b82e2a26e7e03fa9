"""Pre-activation ResNets as pytorch-cifar and RobustBench publish them, without a batch norm before the head."""

from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.layers import CIFAR_MEAN, CIFAR_STD, convolution, positive, stage, start
from gauntlet.models.normalize import Normalize
from gauntlet.models.preact_resnet import DEPTHS, PreActBlock

SHORTCUTS = ("activated", "input")


class InputShortcutBlock(PreActBlock):
    """The block whose projected shortcut starts from its input, before batch norm and activation."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, inside, H, W] to [B, outside, H / stride, W / stride]."""
        out = self.act(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(x)
        result: Tensor = self.conv2(self.act(self.norm2(self.conv1(out)))) + kept
        return result


class CifarPreActResNet(nn.Module):
    """PreActResNet-18 or -34 whose last block goes straight to the mean and the head.

    Children: normalize, stem, layer1 to layer4, head.

    Args:
        classes: number of logits.
        channels: of the images.
        depth: 18 or 34.
        width: channels of the stem.
        activation: relu, silu or softplus.
        shortcut: where projections start: activated, as in pytorch-cifar, or input, as in RobustBench's Wong2020Fast
            and Andriushchenko2020Understanding. A file does not tell the two apart.
        mean, std: of the pixels, one value for each channel or one for all; the defaults are those of CIFAR-10.

    Raises:
        UserError: another depth, activation or shortcut, or numbers out of range.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        depth: int = 18,
        width: int = 64,
        activation: str = "relu",
        shortcut: str = "activated",
        mean: tuple[float, ...] = CIFAR_MEAN,
        std: tuple[float, ...] = CIFAR_STD,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise UserError(f"model.depth={depth} is none of PreActResNet's; choose 18 or 34")
        if shortcut not in SHORTCUTS:
            raise UserError(f"model.shortcut={shortcut} is unknown; choose {' or '.join(SHORTCUTS)}")
        positive(classes=classes, channels=channels, width=width)
        block, counts = (PreActBlock if shortcut == "activated" else InputShortcutBlock), DEPTHS[depth]
        self.normalize = Normalize(mean, std, channels)
        self.stem = convolution(channels, width, 3)
        self.layer1 = stage(block, width, width, counts[0], 1, activation)
        self.layer2 = stage(block, width, 2 * width, counts[1], 2, activation)
        self.layer3 = stage(block, 2 * width, 4 * width, counts[2], 2, activation)
        self.layer4 = stage(block, 4 * width, 8 * width, counts[3], 2, activation)
        self.head = nn.Linear(8 * width, classes)
        start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [B, channels, H, W] in [0, 1], H and W at least 8, to logits [B, classes]."""
        out = self.stem(self.normalize(x))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.head(out.mean((2, 3)))
        return logits

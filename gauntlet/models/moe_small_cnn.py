"""The small convolutional network as a mixture of experts, for 8x8 to 32x32 images."""

from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.layers import convolution, positive
from gauntlet.models.moe import Gate, MixtureOfExperts, MoEConv2d, Routed, make_router, scaled
from gauntlet.models.small_cnn import DEPTHS


class Unit(nn.Module):
    """A 3x3 convolution of experts with batch norm and ReLU."""

    def __init__(self, inside: int, outside: int, stride: int, experts: int) -> None:
        super().__init__()
        self.conv = MoEConv2d(inside, outside, 3, stride, experts)
        self.norm = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        """[B, inside, H, W] to [B, outside, H / stride, W / stride]."""
        result: Tensor = self.norm(self.conv(x, gate)).relu()
        return result


class MoESmallCNN(MixtureOfExperts):
    """`gauntlet.models.small_cnn.SmallCNN` whose convolutions but the first are experts of `scale` times its width.

    One digit (8x8, 10 classes, the defaults) takes 31,232 multiply-adds on its pathway and 5,792 in the router; the
    dense network takes 97,024. Children: normalize (nothing), router, stem, layers, head.

    Args:
        classes: number of logits.
        channels: of the images.
        size: height and width of the images, 8, 28 or 32.
        width: channels of the first convolution, which is not scaled.
        experts: how many pathways, >= 1.
        scale: width of a pathway as a share of the dense network, in (0, 1].
        router: small, resnet20 or constant (every image takes the first pathway).
        standardise: scores of mean 0 and spread 1 in each batch; see gauntlet.models.moe.

    Raises:
        UserError: another size or router, or numbers out of range.
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        size: int,
        width: int = 16,
        experts: int = 2,
        scale: float = 0.5,
        router: str = "small",
        standardise: bool = False,
    ) -> None:
        if size not in DEPTHS:
            raise UserError(f"model=moe_small_cnn takes images of 8, 28 or 32 pixels, not {size}; try moe_resnet18")
        positive(classes=classes, channels=channels, width=width, experts=experts)
        super().__init__(make_router(router, channels, experts, standardise), nn.Identity(), experts)
        depth, pixels, inside = DEPTHS[size], -(-size // 2), width
        self.stem = nn.Sequential(convolution(channels, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU())
        self.layers = Routed()
        for number in range(1, depth):
            outside, stride = scaled(width << number, scale), 1 if number == depth - 1 else 2
            self.layers.append(Unit(inside, outside, stride, experts))
            inside, pixels = outside, -(-pixels // stride)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(inside * pixels**2, classes))

    def trunk(self, x: Tensor, gate: Gate) -> Tensor:
        logits: Tensor = self.head(self.layers(self.stem(x), gate))
        return logits

"""Wide residual networks as a mixture of experts."""

from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.layers import CIFAR_MEAN, CIFAR_STD, convolution, positive, start
from gauntlet.models.layers import activation as named_activation
from gauntlet.models.moe import Gate, MixtureOfExperts, MoEConv2d, Routed, make_router, scaled
from gauntlet.models.normalize import Normalize


class MoEPreActBlock(nn.Module):
    """`gauntlet.models.preact_resnet.PreActBlock` whose convolutions, the projected shortcut included, are experts."""

    def __init__(self, inside: int, outside: int, stride: int, act: str, experts: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inside)
        self.conv1 = MoEConv2d(inside, outside, 3, stride, experts)
        self.norm2 = nn.BatchNorm2d(outside)
        self.conv2 = MoEConv2d(outside, outside, 3, 1, experts)
        self.act = named_activation(act)
        same = stride == 1 and inside == outside
        self.shortcut = None if same else MoEConv2d(inside, outside, 1, stride, experts)

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        """[B, inside, H, W] to [B, outside, H / stride, W / stride]."""
        out = self.act(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(out, gate)
        result: Tensor = self.conv2(self.act(self.norm2(self.conv1(out, gate))), gate) + kept
        return result


class MoEWideResNet(MixtureOfExperts):
    """`gauntlet.models.wide_resnet.WideResNet` whose convolutions but the first are experts of `scale` times its width.

    As in AdvMoE (arXiv 2308.10110) the stem is scaled too, and the shortcuts are experts. WRN-28-10 with the defaults
    takes 1.311 billion multiply-adds on a pathway and 0.041 in the router for an image of 32 pixels, 26% of the 5.243
    billion of the dense network. Children: normalize, router, stem, layer1 to layer3, last, head.

    Args:
        classes: number of logits.
        channels: of the images.
        depth: 6n + 4: 10, 16, 22, 28, 34 ...
        width: how many times wider than a ResNet with 16 channels in its first stage.
        experts: how many pathways, >= 1.
        scale: width of a pathway as a share of the dense network, in (0, 1].
        router: resnet20, small or constant (every image takes the first pathway).
        standardise: scores of mean 0 and spread 1 in each batch; see gauntlet.models.moe.
        activation: relu, silu or softplus.
        mean, std: of the pixels, one value for each channel or one for all; the defaults are those of CIFAR-10.

    Raises:
        UserError: a depth that is not 6n + 4, an unknown router or activation, or numbers out of range.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        depth: int = 28,
        width: int = 10,
        experts: int = 2,
        scale: float = 0.5,
        router: str = "resnet20",
        standardise: bool = False,
        activation: str = "relu",
        mean: tuple[float, ...] = CIFAR_MEAN,
        std: tuple[float, ...] = CIFAR_STD,
    ) -> None:
        positive(classes=classes, channels=channels, depth=depth, width=width, experts=experts)
        if depth < 10 or depth % 6 != 4:
            raise UserError(f"model.depth={depth} must be 6n + 4; choose 10, 16, 22, 28, 34, 40, 70 or another such")
        router_module = make_router(router, channels, experts, standardise)
        super().__init__(router_module, Normalize(mean, std, channels), experts)
        inside, stages = scaled(16, scale), []
        self.stem = convolution(channels, inside, 3)
        start(self.stem)
        for number in range(3):
            outside, stride = scaled((16 * width) << number, scale), 2 if number else 1
            first = MoEPreActBlock(inside, outside, stride, activation, experts)
            rest = (MoEPreActBlock(outside, outside, 1, activation, experts) for _ in range((depth - 4) // 6 - 1))
            stages.append(Routed([first, *rest]))
            inside = outside
        self.layer1, self.layer2, self.layer3 = stages
        self.last = nn.Sequential(nn.BatchNorm2d(inside), named_activation(activation))
        self.head = nn.Linear(inside, classes)

    def trunk(self, x: Tensor, gate: Gate) -> Tensor:
        out = self.stem(x)
        for layer in (self.layer1, self.layer2, self.layer3):
            out = layer(out, gate)
        logits: Tensor = self.head(self.last(out).mean((2, 3)))
        return logits

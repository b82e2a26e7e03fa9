"""ResNet-18 and -34 as a mixture of experts."""

from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.layers import CIFAR_MEAN, CIFAR_STD, positive, start
from gauntlet.models.layers import activation as named_activation
from gauntlet.models.moe import Gate, MixtureOfExperts, MoEConv2d, Routed, make_router, scaled
from gauntlet.models.normalize import Normalize
from gauntlet.models.resnet import shortcut, stem

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Depth -> blocks in each of the four stages."""


class MoEBlock(nn.Module):
    """A `gauntlet.models.resnet.BasicBlock` with two convolutions of experts; its projection is shared."""

    def __init__(self, inside: int, outside: int, stride: int, act: str, experts: int) -> None:
        super().__init__()
        self.conv1 = MoEConv2d(inside, outside, 3, stride, experts)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = MoEConv2d(outside, outside, 3, 1, experts)
        self.norm2 = nn.BatchNorm2d(outside)
        self.shortcut = shortcut(inside, outside, stride)
        self.act = named_activation(act)

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        """[B, inside, H, W] to [B, outside, H / stride, W / stride]."""
        out = self.act(self.norm1(self.conv1(x, gate)))
        out = self.norm2(self.conv2(out, gate)) + self.shortcut(x)
        result: Tensor = self.act(out)
        return result


class MoEResNet(MixtureOfExperts):
    """`gauntlet.models.resnet.ResNet` of basic blocks whose 3x3 convolutions are experts of `scale` times its width.

    From AdvMoE (arXiv 2308.10110): the stem keeps its width; batch norms, projections and head are shared. ResNet-18
    with the defaults takes 151.7 million multiply-adds on a pathway and 40.6 million in the router for an image of 32
    pixels, 35% of the 555.4 million of the dense network. Children: normalize, router, stem, layer1 to layer4, head.

    Args:
        classes: number of logits.
        channels: of the images.
        depth: 18 or 34.
        width: channels of the stem.
        experts: how many pathways, >= 1.
        scale: width of a pathway as a share of the dense network, in (0, 1].
        router: resnet20, small or constant (every image takes the first pathway).
        standardise: scores of mean 0 and spread 1 in each batch; see gauntlet.models.moe.
        activation: relu, silu or softplus.
        mean, std: of the pixels, one value for each channel or one for all; the defaults are those of CIFAR-10.

    Raises:
        UserError: another depth, router or activation, or numbers out of range.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        depth: int = 18,
        width: int = 64,
        experts: int = 2,
        scale: float = 0.5,
        router: str = "resnet20",
        standardise: bool = False,
        activation: str = "relu",
        mean: tuple[float, ...] = CIFAR_MEAN,
        std: tuple[float, ...] = CIFAR_STD,
    ) -> None:
        if depth not in DEPTHS:
            raise UserError(f"model.depth={depth} is none of the mixture's; choose 18 or 34")
        positive(classes=classes, channels=channels, width=width, experts=experts)
        router_module = make_router(router, channels, experts, standardise)
        super().__init__(router_module, Normalize(mean, std, channels), experts)
        self.stem = stem(channels, width, activation)
        start(self.stem)
        inside, stages = width, []
        for number, count in enumerate(DEPTHS[depth]):
            outside, stride = scaled(width << number, scale), 2 if number else 1
            first = MoEBlock(inside, outside, stride, activation, experts)
            rest = (MoEBlock(outside, outside, 1, activation, experts) for _ in range(count - 1))
            stages.append(Routed([first, *rest]))
            inside = outside
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.head = nn.Linear(inside, classes)

    def trunk(self, x: Tensor, gate: Gate) -> Tensor:
        out = self.stem(x)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = layer(out, gate)
        logits: Tensor = self.head(out.mean((2, 3)))
        return logits

"""A ResNet of torchvision that takes several views of an image, stacked as channels."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.layers import positive
from gauntlet.models.normalize import Normalize
from gauntlet.models.torchvision_models import IMAGENET_MEAN, IMAGENET_STD, pretrained, untrained

TRAINED_FOR = 1000
"""Classes of the published weights."""


class StackedResNet(nn.Module):
    """Views enlarged to `size`, each normalized, and a first convolution that is as wide as their stack.

    Fort and Lakshminarayanan 2024, arXiv 2408.05446, who fine-tune a ResNet-152 at 224 pixels; only its first
    convolution and its last layer begin anew. Children: normalize, model (conv1, layer1 to layer4, avgpool, fc).

    Args:
        name: resnet18, resnet34, resnet50, resnet101, resnet152, or a wide or grouped one of torchvision.
        classes: number of logits.
        views: images in the stack.
        channels: of each.
        size: height and width to which they are enlarged, bicubic; 0: as they come.
        mean, std: of the pixels, one value for each channel of an image or one for all.
        weights: published weights of ImageNet, such as IMAGENET1K_V2 or DEFAULT, downloaded once; null: drawn anew.

    Raises:
        UserError: another name, numbers out of range, or weights that cannot be had.
    """

    def __init__(
        self,
        name: str,
        classes: int,
        views: int = 4,
        channels: int = 3,
        size: int = 224,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if "resne" not in name:
            raise UserError(f"model.name={name} is no ResNet of torchvision; choose resnet18 or resnet152")
        positive(classes=classes, views=views, channels=channels)
        if size < 0:
            raise UserError(f"model.size={size} must not be negative; 0 leaves the views as they are")
        self.size = size
        self.normalize = Normalize(_each(mean, views), _each(std, views), views * channels)
        self.model = pretrained(name, TRAINED_FOR, weights) if weights else untrained(name, TRAINED_FOR)
        first, last = self.model.conv1, self.model.fc
        assert isinstance(first, nn.Conv2d)
        assert isinstance(last, nn.Linear)
        self.model.conv1 = nn.Conv2d(views * channels, first.out_channels, 7, stride=2, padding=3, bias=False)
        self.model.fc = nn.Linear(last.in_features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Views [B, views * channels, H, W] in [0, 1] to logits [B, classes]."""
        if self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bicubic", align_corners=False)
        logits: Tensor = self.model(self.normalize(x))
        return logits


def _each(values: Sequence[float], views: int) -> list[float]:
    """The constants of one image, for each view; one value stands for all channels."""
    return list(values) if len(values) == 1 else list(values) * views

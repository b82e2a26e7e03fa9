"""Linear classifiers on layers inside a network that is trained before them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.errors import UserError
from models.taps import Tapped


class Probes(nn.ModuleList):
    """A probe for each tapped layer: all features, flattened, through batch norm and a linear map.

    Fort and Lakshminarayanan 2024, arXiv 2408.05446. The network only tells the sizes of its layers and is not kept.

    Args:
        network: from images to logits, of the architecture that is probed.
        taps: names of its layers, one or more.
        classes: number of logits.
        shape: channels, height and width of what the network takes.

    Raises:
        UserError: no taps, or a layer that is not there.
    """

    def __init__(self, network: nn.Module, taps: Sequence[str], classes: int, shape: Sequence[int]) -> None:
        if not taps:
            raise UserError("model.taps must name layers: without a probe there is one predictor")
        self.taps = list(taps)
        super().__init__(
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(size), nn.Linear(size, classes))
            for size in _sizes(Tapped(network, taps), shape)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """What the layers gave, in the order of `taps`, to the logits of each probe [B, M, classes]."""
        return torch.stack([probe(each) for probe, each in zip(self, features, strict=True)], 1)


@torch.no_grad()
def _sizes(tapped: Tapped, shape: Sequence[int]) -> list[int]:
    """Numbers of features of the tapped layers."""
    mode = tapped.training
    _, features = tapped.eval()(torch.zeros(1, *shape))
    tapped.train(mode)
    return [each[0].numel() for each in features]

"""A network with linear classifiers on layers inside: several predictors for one forward."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.errors import UserError
from models.taps import Tapped


class Probed(nn.Module):
    """A backbone and a probe on each tapped layer: all features, flattened, through batch norm and a linear map.

    In training the probes do not move the backbone: their features are detached (Fort and Lakshminarayanan 2024, arXiv
    2408.05446, train them afterwards).

    Args:
        network: from images to logits.
        taps: names of its layers, one or more.
        classes: number of logits.
        shape: channels, height and width of what the network takes.

    Raises:
        UserError: no taps, or a layer that is not there.
    """

    def __init__(self, network: nn.Module, taps: Sequence[str], classes: int, shape: Sequence[int]) -> None:
        super().__init__()
        if not taps:
            raise UserError("model.taps must name layers: without a probe there is one predictor")
        self.tapped = Tapped(network, taps)
        with torch.no_grad():
            mode = network.training
            _, features = self.tapped.eval()(torch.zeros(1, *shape))
            self.tapped.train(mode)
        sizes = [each[0].numel() for each in features]
        self.probes = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(size), nn.Linear(size, classes)) for size in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, *shape] to logits of each predictor [B, M, classes]: the probes, then the backbone."""
        logits, features = self.tapped(x)
        probed = [
            probe(each.detach() if self.training else each) for probe, each in zip(self.probes, features, strict=True)
        ]
        return torch.stack([*probed, logits], 1)

"""A network with linear classifiers on layers inside: several predictors for one forward."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.probes import Probes
from models.taps import Tapped


class Probed(nn.Module):
    """A backbone and a probe on each tapped layer, see `models.probes.Probes`.

    In training the probes do not move the backbone: their features are detached.

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
        self.tapped = Tapped(network, taps)
        self.probes = Probes(network, taps, classes, shape)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, *shape] to logits of each predictor [B, M, classes]: the probes, then the backbone."""
        logits, features = self.tapped(x)
        probed = self.probes([each.detach() if self.training else each for each in features])
        return torch.cat([probed, logits[:, None]], 1)

"""A network with linear classifiers on layers inside: several predictors for one forward."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.probes import Probes
from models.taps import Tapped


class Behind(nn.Module):
    """Probes behind their backbone: the logits of each predictor, the backbone last.

    Args:
        backbone: from images to logits.
        probes: on its layers.

    Raises:
        UserError: a layer that is not there.
    """

    def __init__(self, backbone: nn.Module, probes: Probes) -> None:
        super().__init__()
        self.tapped, self.probes = Tapped(backbone, probes.taps), probes

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits of each predictor [B, M, classes]: the probes, then the backbone."""
        logits, features = self.tapped(x)
        return torch.cat([self.probes(self._kept(features)), logits[:, None]], 1)

    def _kept(self, features: list[Tensor]) -> list[Tensor]:
        """What the probes see of the layers."""
        return features


class Probed(Behind):
    """A backbone and a probe on each tapped layer, trained as one network, see `models.probes.Probes`.

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
        super().__init__(network, Probes(network, taps, classes, shape))

    def _kept(self, features: list[Tensor]) -> list[Tensor]:
        return [each.detach() for each in features] if self.training else features

"""A network with linear classifiers on layers inside: several predictors for one forward."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.feature_taps import Tapped


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
    """A backbone and a probe on each tapped layer, trained as one network, see `gauntlet.models.linear_probes.Probes`.

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

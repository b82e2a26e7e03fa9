"""Networks that hide their gradients, each around a trained one. They are here to try attacks on."""

import torch
from torch import Tensor, nn


class Rounded(nn.Module):
    """Pixels rounded to a few levels: the gradient is zero."""

    def __init__(self, network: nn.Module, levels: int = 12) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x * self.levels).round() / self.levels)
        return logits


class Rippled(nn.Module):
    """A ripple on the logits, small and steep: the gradient points anywhere."""

    def __init__(self, network: nn.Module, height: float = 0.02, pace: float = 4000.0) -> None:
        super().__init__()
        self.network, self.height, self.pace = network, height, pace

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        ripple = torch.sin(self.pace * x.flatten(1).sum(1, keepdim=True))
        return logits + self.height * ripple * torch.linspace(-1, 1, logits.shape[1], device=x.device, dtype=x.dtype)


class WinnersTakeAll(nn.Module):
    """Keeps the largest share of the activations (k-WTA, arXiv 1905.10510)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self.share * flat.shape[1])), dim=1).values[:, -1:]
        return (flat * (flat >= least)).reshape(x.shape)


class Snapped(nn.Module):
    """Activations within `width` standard deviations of their mean become the mean (MeanSparse, arXiv 2406.05927)."""

    def __init__(self, mean: Tensor, std: Tensor, width: float) -> None:
        super().__init__()
        self.mean, self.std, self.width = mean, std, width

    def forward(self, x: Tensor) -> Tensor:
        return torch.where((x - self.mean).abs() < self.width * self.std, self.mean.expand_as(x), x)


def winners_take_all(network: nn.Module, share: float = 0.3) -> nn.Module:
    """The network with k-WTA after every ReLU of its blocks, in place."""
    for block in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
        for place, layer in enumerate(block):
            if isinstance(layer, nn.ReLU):
                block[place] = nn.Sequential(layer, WinnersTakeAll(share))
    return network


@torch.no_grad()
def snapped(network: nn.Module, images: Tensor, width: float = 0.5) -> nn.Module:
    """The network with the outputs of its batch norms snapped to their mean over these images, in place."""
    seen: dict[nn.Module, Tensor] = {}
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [m.register_forward_hook(lambda m, _, out: seen.__setitem__(m, out)) for m in norms]
    network(images)
    for hook in hooks:
        hook.remove()
    for block in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
        for place, layer in enumerate(block):
            if layer in seen:
                mean, std = (getattr(seen[layer], f)((0, 2, 3), keepdim=True) for f in ("mean", "std"))
                block[place] = nn.Sequential(layer, Snapped(mean, std, width))
    return network

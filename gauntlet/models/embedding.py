"""What a network makes of images, one vector an image: its features before the classes."""

from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.feature_taps import Tapped


class Embedding(nn.Module):
    """Gives features [B, d] of images [B, C, H, W].

    A map of features is averaged over its places, tokens over their number.

    Args:
        network: any module from images to logits.
        layer: whose output is taken, as in `network.named_modules()`; None: what the last linear layer is given.

    Raises:
        UserError: there is no such layer.
    """

    def __init__(self, network: nn.Module, layer: str | None = None) -> None:
        super().__init__()
        self.network = network
        self._tapped = Tapped(network, [layer], "--layer") if layer else None
        linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        if layer is None and not linear:
            raise UserError("the network has no linear layer whose input are its features; name a layer by --layer")
        self.named = f"output of {layer}" if layer else f"input of {linear[-1] or 'the network'}"
        self._last = dict(network.named_modules())[linear[-1]] if linear else network

    def forward(self, x: Tensor) -> Tensor:
        """Return the features [B, d]."""
        features = self._tapped(x)[1][0] if self._tapped else self._given(x)
        places = {3: (1,), 4: (2, 3)}.get(features.dim())
        return features.mean(places) if places else features.flatten(1)

    def _given(self, x: Tensor) -> Tensor:
        taken: list[Tensor] = []
        handle = self._last.register_forward_pre_hook(lambda module, given: taken.append(given[0]))
        try:
            self.network(x)
        finally:
            handle.remove()
        return taken[-1]

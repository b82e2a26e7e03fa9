"""Features of a network's named layers, beside its output."""

import difflib
from collections.abc import Sequence

from torch import Tensor, nn

from gauntlet.errors import UserError


class Tapped(nn.Module):
    """A network that also returns what some of its layers gave.

    Args:
        network: any module from images to logits.
        names: of submodules, as in `network.named_modules()`.
        key: the option that names them, for messages.

    Raises:
        UserError: there is no such layer.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], key: str = "defense.taps") -> None:
        super().__init__()
        self.network = network
        layers = dict(network.named_modules())
        for name in names:
            if name not in layers:
                near = difflib.get_close_matches(name, layers, 3) or list(dict(network.named_children()))
                raise UserError(f"the model has no layer {name!r} to tap; try {', '.join(near)} ({key})")
        self._layers = [layers[name] for name in names]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [B, K] and the features of the layers, in the order of their names."""
        taken: dict[int, Tensor] = {}

        def keep(place: int) -> object:
            return lambda module, given, output: taken.__setitem__(place, output)

        handles = [layer.register_forward_hook(keep(place)) for place, layer in enumerate(self._layers)]
        try:
            logits: Tensor = self.network(x)
        finally:
            for handle in handles:
                handle.remove()
        return logits, [taken[place] for place in range(len(self._layers))]

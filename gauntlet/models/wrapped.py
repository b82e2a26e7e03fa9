"""Any network with its preprocessing inside: pixels in [0, 1] of the data set's size to logits."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from gauntlet.errors import UserError
from gauntlet.models.normalize import Normalize

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")


class Wrapped(nn.Module):
    """A network of any origin behind the preprocessing of its author, so that attacks see the pixels.

    Children: normalize, and model, the network; weights of the bare network load as they are.

    Args:
        network: takes normalized images, and gives logits, or an object or mapping that holds them as `logits`, as the
            classifiers of transformers do.
        mean, std: of the pixels, one value for each channel or one for all; [0] and [1] for a network that normalizes
            by itself.
        channels: of the data set's images. Grey images are repeated where mean has three values.
        resize: side in pixels that images are resized to; null: as they are.
        interpolation: of the resize: bilinear, bicubic or nearest; with antialiasing, as Pillow does.
        crop: side in pixels that is cut out of the center afterwards; null: none.

    Raises:
        UserError: a constant that is out of its range, or no network.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        channels: int = 3,
        resize: int | None = None,
        interpolation: str = "bilinear",
        crop: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise UserError(
                f"model.network gives a {type(network).__name__}, not a torch.nn.Module; check its _target_"
            )
        if interpolation not in INTERPOLATIONS:
            raise UserError(f"model.interpolation={interpolation} is unknown; choose {', '.join(INTERPOLATIONS)}")
        for name, side in (("resize", resize), ("crop", crop)):
            if side is not None and side < 1:
                raise UserError(f"model.{name}={side} must be a number of pixels from 1, or null")
        self.planes = max(channels, len(mean))
        self.normalize = Normalize(mean, std, self.planes)
        self.model = network
        self.side, self.crop, self.interpolation = resize, crop, interpolation

    origin = ""
    """Where the network comes from, in words, for those whose class does not say it."""
    declared = ""
    """What the constants were read from; empty: the user gave them."""
    expects: Any = None
    """The `Declared` that they were read from; None: the user gave them."""

    @property
    def preprocessing(self) -> str:
        """Return what happens to pixels before the network, in words."""
        side = "" if self.side is None else f"resize {self.side} {self.interpolation}, "
        crop = "" if self.crop is None else f"crop {self.crop}, "
        return f"{side}{crop}{self.normalize.text}" + (f" ({self.declared})" if self.declared else "")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, classes] of pixels [B, channels, H, W] in [0, 1]."""
        x = x.expand(-1, self.planes, -1, -1)
        if self.side is not None or self.crop is not None:
            x = self._resized(x)
        return logits_of(self.model(self.normalize(x)))

    def _resized(self, x: Tensor) -> Tensor:
        """Return images of the network's own side."""
        from torchvision.transforms import InterpolationMode  # slow to import
        from torchvision.transforms.functional import center_crop, resize

        if self.side is not None:
            mode = InterpolationMode(self.interpolation)
            x = resize(x, [self.side, self.side], mode, antialias=mode is not InterpolationMode.NEAREST)
        return x if self.crop is None else center_crop(x, [self.crop, self.crop])


def logits_of(output: Any) -> Tensor:
    """Return the logits of what a network gave: a tensor, or an object or mapping that holds them as `logits`.

    Raises:
        UserError: it holds none.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, fx.Proxy):  # a symbol, where the graph of a network is read to fold its batch norms
        return cast(Tensor, output)
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(found, torch.Tensor):
        return found
    held = f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
    raise UserError(
        f"the network gives a {type(output).__name__}{held}, which holds no logits; return the logits alone"
    )

"""A classifier from a TorchScript archive."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from gauntlet.errors import UserError, reason
from gauntlet.models.wrapped import Wrapped


class TorchScriptModel(Wrapped):
    """A classifier from a TorchScript archive. An archive is a program, so it must be trusted as code is.

    Args:
        path: of the archive. It takes images [batch, channels, height, width] and gives logits.
        channels: of the images; grey ones are repeated where mean has three values.
        mean, std, resize, interpolation, crop: as in `gauntlet.models.wrapped.Wrapped`; the defaults leave pixels as
            they are.

    Raises:
        UserError: there is no such file, or it is no TorchScript archive.
    """

    def __init__(
        self,
        path: str,
        channels: int = 3,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        resize: int | None = None,
        interpolation: str = "bilinear",
        crop: int | None = None,
    ) -> None:
        place = Path(path).expanduser()
        if not place.is_file():
            raise UserError(f"there is no file {place}; check model.path")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network = torch.jit.load(str(place), map_location="cpu")  # type: ignore[no-untyped-call]
        except Exception as cause:
            raise UserError(
                f"{place} is no TorchScript archive ({reason(cause)}); weights alone go into checkpoint=FILE"
            ) from None
        super().__init__(network, mean, std, channels, resize, interpolation, crop)
        self.origin = f"TorchScript archive {place.name}"

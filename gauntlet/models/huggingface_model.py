"""Any image classifier of transformers, from a folder or the hub, behind what its image processor does."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from gauntlet.errors import UserError, reason
from gauntlet.models.author_preprocessing import Declared, triple
from gauntlet.models.model_hub import hub
from gauntlet.models.optional import needed
from gauntlet.models.wrapped import Wrapped

RESAMPLES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""


class HuggingFaceModel(Wrapped):
    """A classifier of transformers that gets pixels as its image processor would give them. Runs no code of the hub.

    Args:
        name: a folder that `save_pretrained` wrote, with preprocessor_config.json, or owner/name on the hub.
        classes: number of logits.
        channels: of the images; grey ones are repeated.
        size: height and width of the images.
        revision: of the hub; null: the newest.
        mean, std, resize, interpolation, crop: null: as the image processor says. Images of the size that the network
            takes are not resized; a resize of 0 leaves all as they are.

    Raises:
        UserError: transformers is not installed, there is no such folder or name, it is no image classifier, it is for
            another number of classes, or the images do not fit.
    """

    def __init__(
        self,
        name: str,
        classes: int,
        channels: int = 3,
        size: int = 224,
        revision: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        resize: int | None = None,
        interpolation: str | None = None,
        crop: int | None = None,
    ) -> None:
        folder = Path(name).expanduser()
        place = str(folder) if folder.is_dir() else name
        if not folder.is_dir() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
            raise UserError(
                f"there is no folder {folder}; give one that save_pretrained wrote, or owner/name of the hub"
            )
        network, config = _loaded(place, revision)
        outputs = int(getattr(network.config, "num_labels", classes))
        if outputs != classes:
            raise UserError(
                f"{name} is for {outputs} classes, the data set has {classes}; take data or a class map of those"
            )
        shown = folder.name if folder.is_dir() else name  # places are no part of a record
        declared = declared_by(config, f"image processor of {shown}")
        given = {"mean": mean, "std": std, "resize": resize, "interpolation": interpolation, "crop": crop}
        super().__init__(network, channels=channels, **declared.for_images(size, given))
        self.origin = f"{type(network).__name__} of transformers: {shown}"
        self.declared, self.expects = declared.text(given), declared


def declared_by(config: Mapping[str, Any], source: str) -> Declared:
    """Return what the configuration of an image processor says of pixels."""
    scale = 255 * float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 255.0
    if config.get("rescale_offset"):
        raise UserError(f"{source} shifts pixels as it rescales, which is not known here; use model=wrapped")
    normalizes = bool(config.get("do_normalize", True))
    mean, std = (
        triple(config.get(f"image_{key}", [plain]) if normalizes else [plain], key, source)
        for key, plain in (("mean", 0.0), ("std", 1.0))
    )
    mean, std = (tuple(value / scale for value in values) for values in (mean, std))
    resample = config.get("resample", 2)
    interpolation = RESAMPLES.get(resample, str(resample)) if isinstance(resample, int) else str(resample)
    resize, crop = _side(config.get("size"), source), _side(config.get("crop_size"), source)
    if not config.get("do_resize", True):
        resize = None
    if (share := config.get("crop_pct")) and resize and resize < 384:  # as ConvNeXT's processor does
        resize, crop = int(resize / share), resize
    elif not config.get("do_center_crop", False):
        crop = None
    side = crop or resize
    if side is None:
        raise UserError(f"{source} says no size; use model=wrapped with model.resize")
    return Declared(source, mean, std, side, resize or side, interpolation)


def _side(size: Any, source: str) -> int | None:
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            return int(size["shortest_edge"])
        if size.get("height") != size.get("width"):
            raise UserError(f"{source} makes images of {size.get('height')}x{size.get('width')}; they are square here")
        size = size.get("height")
    return None if size is None else int(size)


def _loaded(place: str, revision: str | None) -> tuple[nn.Module, Mapping[str, Any]]:
    """Return the network and the configuration of its image processor."""
    transformers = needed("transformers", "huggingface", "huggingface")
    more = {} if revision is None else {"revision": revision}
    try:
        with nullcontext() if Path(place).is_dir() else hub():
            config, _ = transformers.BaseImageProcessor.get_image_processor_dict(place, **more)
            kind = transformers.AutoModelForImageClassification
            network: nn.Module = kind.from_pretrained(place, trust_remote_code=False, **more)
    except Exception as cause:  # the hub, files and configurations raise many types
        raise UserError(
            f"transformers cannot give {place} ({reason(cause)}); without network give a local folder that "
            "save_pretrained wrote, the processor's too"
        ) from None
    return network, config

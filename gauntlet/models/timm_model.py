"""Any classifier of timm, by name, behind the preprocessing of its `pretrained_cfg` (Wightman, 2019)."""

import difflib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from gauntlet.errors import UserError, reason
from gauntlet.models.author_preprocessing import Declared, triple
from gauntlet.models.model_hub import hub
from gauntlet.models.optional import needed
from gauntlet.models.wrapped import Wrapped

WEIGHTS = (None, "pretrained")
ELSEWHERE = ("hf_hub:", "hf-hub:", "local-dir:")
"""What a name begins with whose network is not among timm's own."""


class TimmModel(Wrapped):
    """A classifier of timm that gets pixels as its author meant it to.

    Args:
        name: as in timm, such as resnet18 or vit_tiny_patch16_224.augreg_in21k_ft_in1k; hf_hub:owner/name for one of
            the hub, local-dir:path for a folder with config.json and weights.
        classes: number of logits.
        channels: of the images; grey ones are repeated.
        size: height and width of the images.
        weights: pretrained: those that the name stands for; null: drawn anew, for checkpoint=FILE or training.
        mean, std, resize, interpolation, crop: null: as `pretrained_cfg` says. Images of the size that the network
            takes are not resized; a resize of 0 leaves all as they are.

    Raises:
        UserError: timm is not installed, the name is unknown, the weights cannot be had or are for another number of
            classes, or the images do not fit.
    """

    def __init__(
        self,
        name: str,
        classes: int,
        channels: int = 3,
        size: int = 224,
        weights: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        resize: int | None = None,
        interpolation: str | None = None,
        crop: int | None = None,
    ) -> None:
        if weights not in WEIGHTS:
            raise UserError(f"model.weights={weights} is unknown; choose pretrained, or null with checkpoint=FILE")
        timm = needed("timm", "timm", "timm")
        network = _network(timm, name, classes, pretrained=weights is not None)
        shown = Path(name).name if name.startswith("local-dir:") else name  # places are no part of a record
        declared = declared_by(network, f"pretrained_cfg of {shown}")
        given = {"mean": mean, "std": std, "resize": resize, "interpolation": interpolation, "crop": crop}
        super().__init__(network, channels=channels, **declared.for_images(size, given))
        self.origin = f"{type(network).__name__} of timm: {shown}"
        self.declared, self.expects = declared.text(given), declared


def declared_by(network: nn.Module, source: str) -> Declared:
    """Return what the `pretrained_cfg` of a network of timm says of its pixels."""
    timm_data = needed("timm.data", "timm", "timm")
    config = timm_data.resolve_model_data_config(network)
    _, height, width = config["input_size"]
    if height != width:
        raise UserError(f"{source} takes {height}x{width} pixels; images here are square, choose another model.name")
    if config.get("crop_mode", "center") not in ("center", "squash"):
        raise UserError(f"{source} crops by {config['crop_mode']}, which is not known here; set model.resize and crop")
    mean, std = (triple(config[key], key, source) for key in ("mean", "std"))
    resize = int(height / config["crop_pct"])
    return Declared(source, mean, std, height, resize, str(config["interpolation"]))


def _network(timm: Any, name: str, classes: int, *, pretrained: bool) -> nn.Module:
    if not name.startswith(ELSEWHERE):
        known = timm.list_models() + (timm.list_pretrained() if "." in name else [])
        if name not in known and name.partition(".")[0] not in known:
            near = difflib.get_close_matches(name, known, 3, 0.5)
            raise UserError(f"timm has no model {name!r}; did you mean {', '.join(near) or known[0]}? (model.name)")
    try:
        more = {} if pretrained else {"num_classes": classes}
        with hub() if pretrained and not name.startswith("local-dir:") else nullcontext():
            network: nn.Module = timm.create_model(name, pretrained=pretrained, **more)
    except Exception as cause:  # the hub, files and names raise many types
        way = "check the network and the name, or give checkpoint=FILE with model.weights=null"
        raise UserError(f"timm cannot give {name} ({reason(cause)}); {way}") from None
    outputs = getattr(network, "num_classes", classes)
    if outputs != classes:
        raise UserError(
            f"the weights of {name} are for {outputs} classes, the data set has {classes}; take data or a class map of "
            "those, or model.weights=null and checkpoint=FILE"
        )
    return network

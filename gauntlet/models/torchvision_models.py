"""Any image classifier of torchvision, by name."""

import difflib
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from gauntlet.errors import UserError, reason
from gauntlet.models.author_preprocessing import Declared, triple
from gauntlet.models.layers import positive
from gauntlet.models.wrapped import Wrapped

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

TIMEOUT = 10.0
"""Seconds to wait for the server of the weights before giving up."""

AUXILIARY = ("googlenet", "inception_v3")
"""Their extra heads serve training only and give a tuple; their own first weights take minutes to draw."""


class TorchvisionModel(Wrapped):
    """A classifier of torchvision that gets pixels as the authors of its weights meant it to.

    Children: normalize, model (its own names below).

    Args:
        name: as in `torchvision.models`, such as resnet18 or convnext_tiny.
        classes: number of logits.
        channels: of the images; 3, or 1: grey is repeated for red, green and blue.
        size: height and width of the images; checked with one black image, 0 = not checked.
        weights: published weights, such as IMAGENET1K_V1 or DEFAULT, downloaded once; null = drawn anew.
        preprocessing: published weights whose preprocessing the network gets, where `weights` does not say it, as for
            checkpoint=FILE; null: none is declared. The normalization is that of ImageNet then, and images stay as they
            are.
        mean, std: of the pixels, one value for each channel or one for all; null: as declared.
        resize, interpolation, crop: null: as declared. Images of the size that is declared are taken as preprocessed
            already; a resize of 0 leaves all as they are.

    Raises:
        UserError: unknown name or weights, weights for another number of classes or that cannot be downloaded,
            images of a size that the network cannot take.
    """

    def __init__(
        self,
        name: str,
        classes: int,
        channels: int = 3,
        size: int = 224,
        weights: str | None = None,
        preprocessing: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        resize: int | None = None,
        interpolation: str | None = None,
        crop: int | None = None,
    ) -> None:
        positive(classes=classes, channels=channels)
        if channels not in (1, 3):
            raise UserError(f"torchvision's models take 1 or 3 channels, not {channels}; choose another model")
        known = list_models(module=torchvision.models)
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.5) or known[:3]
            raise UserError(f"torchvision has no classifier {name!r}; did you mean {', '.join(near)}? (model.name)")
        stated = preprocessing if preprocessing is not None else weights
        declared = undeclared(size) if stated is None else declared_by(entry_of(name, stated), name)
        given = {"mean": mean, "std": std, "resize": resize, "interpolation": interpolation, "crop": crop}
        network = untrained(name, classes, stated) if weights is None else pretrained(name, classes, weights)
        super().__init__(network, channels=3, **declared.for_images(size or declared.size, given))
        self.origin = f"{type(network).__name__} of torchvision: {name}"
        if stated is not None:
            self.declared, self.expects = declared.text(given), declared
            self.clean = _published_clean(entry_of(name, stated)) if not any(given.values()) else {}
        self._published = {_file(entry): entry for entry in get_model_weights(name)} if stated is None else {}
        if size:
            self._check(name, size)

    def check_file(self, path: Path) -> None:
        """Refuse published weights, known by the name of their file, without the preprocessing that they declare."""
        if (entry := self._published.get(path.name)) is not None:
            raise UserError(
                f"{path.name} holds the weights {entry.name}, which declare their preprocessing; add "
                f"model.preprocessing={entry.name}, and to leave images as they are model.resize=0"
            )

    def _check(self, name: str, size: int) -> None:
        self.eval()
        try:
            with torch.no_grad():
                self(torch.zeros(1, 3, size, size))
        except (RuntimeError, AssertionError, ValueError) as cause:
            raise UserError(
                f"torchvision's {name} cannot take images of {size}x{size} pixels ({reason(cause)}); "
                "choose another model.name"
            ) from None
        finally:
            self.train()


def undeclared(size: int) -> Declared:
    """Return the preprocessing of a network without published weights: ImageNet's normalization, nothing else."""
    return Declared("torchvision", IMAGENET_MEAN, IMAGENET_STD, size, size, "bilinear")


def declared_by(entry: WeightsEnum, name: str) -> Declared:
    """Return what published weights say of the pixels that they take."""
    source = f"{entry.name} of torchvision's {name}"
    stated = entry.transforms()
    mean, std = (triple(getattr(stated, key, None), key, source) for key in ("mean", "std"))
    (side,), (resize,) = stated.crop_size, stated.resize_size
    return Declared(source, mean, std, side, resize, stated.interpolation.value)


def entry_of(name: str, weights: str) -> WeightsEnum:
    """Return published weights of a classifier of torchvision. Raises UserError where there are none of that name."""
    choices = get_model_weights(name)
    if weights not in choices.__members__:
        raise UserError(f"{name} has no weights {weights!r}; choose one of {', '.join(choices.__members__)}, or null")
    return choices[weights]


def untrained(name: str, classes: int, like: str | None = None) -> nn.Module:
    """A classifier of torchvision with weights drawn anew, of the form that the published weights `like` need."""
    extra: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name in AUXILIARY else {}
    if like is not None:
        extra |= {"transform_input": True} if name in AUXILIARY else {}
        extra |= {"image_size": entry_of(name, like).meta["min_size"][0]} if name.startswith("vit_") else {}
    network: nn.Module = get_model(name, weights=None, num_classes=classes, **extra)
    return network


def pretrained(name: str, classes: int, weights: str) -> nn.Module:
    """A classifier of torchvision with published weights. Raises UserError where there are none, or none can be had."""
    entry = entry_of(name, weights)
    trained = len(entry.meta["categories"] or ())
    if trained != classes:
        raise UserError(
            f"the weights {weights} of {name} are for {trained} classes, the data set has {classes}; "
            "set model.weights=null and train it"
        )
    cached = Path(torch.hub.get_dir()) / "checkpoints" / _file(entry)
    if not cached.exists():
        _reach(name, weights, entry.url)
    try:
        network: nn.Module = get_model(name, weights=entry)
    except Exception as cause:  # a cut download, a damaged file in the cache: torch raises many types
        raise UserError(
            f"the weights {weights} of {name} cannot be loaded ({reason(cause)}); delete {cached}"
        ) from None
    return network


def _file(entry: WeightsEnum) -> str:
    """Return the name of the file that published weights are in."""
    return str(entry.url).rsplit("/", 1)[-1]


def _published_clean(entry: WeightsEnum) -> dict[str, float]:
    """Return the share of ImageNet's validation images that published weights get right; empty where it is not said."""
    share = entry.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
    return {} if share is None else {"imagenet": share / 100}


def _reach(name: str, weights: str, url: str) -> None:
    """Ask for the file first, because the download itself waits for a dead network without end."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT).close()
    except OSError as cause:
        reason = cause.reason if isinstance(cause, urllib.error.URLError) else cause
        raise UserError(
            f"the weights {weights} of {name} cannot be downloaded from {url} ({reason}); "
            "check the network, or set model.weights=null and give checkpoint=FILE"
        ) from None

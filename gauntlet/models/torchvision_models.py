"""Any image classifier of torchvision, by name."""

import difflib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models

from gauntlet.errors import UserError, reason
from gauntlet.models.layers import positive
from gauntlet.models.normalize import Normalize

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

TIMEOUT = 10.0
"""Seconds to wait for the server of the weights before giving up."""

AUXILIARY = ("googlenet", "inception_v3")
"""Their extra heads serve training only and give a tuple; their own first weights take minutes to draw."""


class TorchvisionModel(nn.Module):
    """A classifier of torchvision with normalization inside. Children: normalize, model (its own names below).

    Args:
        name: as in `torchvision.models`, such as resnet18 or convnext_tiny.
        classes: number of logits.
        channels: of the images; 3, or 1: grey is repeated for red, green and blue.
        size: height and width of the images; checked with one black image, 0 = not checked.
        mean, std: of the pixels, one value for each channel or one for all; the defaults are those of ImageNet.
        weights: published weights, such as IMAGENET1K_V1 or DEFAULT, downloaded once; null = drawn anew.

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
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        positive(classes=classes, channels=channels)
        if channels not in (1, 3):
            raise UserError(f"torchvision's models take 1 or 3 channels, not {channels}; choose another model")
        known = list_models(module=torchvision.models)
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.5) or known[:3]
            raise UserError(f"torchvision has no classifier {name!r}; did you mean {', '.join(near)}? (model.name)")
        self.normalize = Normalize(mean, std, 3)
        self.model = untrained(name, classes) if weights is None else pretrained(name, classes, weights)
        if size:
            self._check(name, size)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [B, channels, H, W] in [0, 1] to logits [B, classes]."""
        logits: Tensor = self.model(self.normalize(x.expand(-1, 3, -1, -1)))
        return logits

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


def untrained(name: str, classes: int) -> nn.Module:
    """A classifier of torchvision with weights drawn anew."""
    extra: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name in AUXILIARY else {}
    network: nn.Module = get_model(name, weights=None, num_classes=classes, **extra)
    return network


def pretrained(name: str, classes: int, weights: str) -> nn.Module:
    """A classifier of torchvision with published weights. Raises UserError where there are none, or none can be had."""
    choices = get_model_weights(name)
    if weights not in choices.__members__:
        raise UserError(f"{name} has no weights {weights!r}; choose one of {', '.join(choices.__members__)}, or null")
    entry = choices[weights]
    trained = len(entry.meta["categories"])
    if trained != classes:
        raise UserError(
            f"the weights {weights} of {name} are for {trained} classes, the data set has {classes}; "
            "set model.weights=null and train it"
        )
    cached = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[-1]
    if not cached.exists():
        _reach(name, weights, entry.url)
    try:
        network: nn.Module = get_model(name, weights=entry)
    except Exception as cause:  # a cut download, a damaged file in the cache: torch raises many types
        raise UserError(
            f"the weights {weights} of {name} cannot be loaded ({reason(cause)}); delete {cached}"
        ) from None
    return network


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

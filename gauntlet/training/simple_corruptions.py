"""Corruptions of images of any size, for the log of a training; common corruptions are a data set of their own."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.threat_model.rng import Rng
from gauntlet.training.model_context import evaluating


def _noise(x: Tensor, rng: Rng) -> Tensor:
    return x + 0.15 * rng.normal(tuple(x.shape[1:]), dtype=x.dtype)


def _impulses(x: Tensor, rng: Rng) -> Tensor:
    drawn = rng.uniform(tuple(x.shape[1:]), dtype=x.dtype)
    return torch.where(drawn < 0.05, 0.0, torch.where(drawn > 0.95, 1.0, x))


def _blur(x: Tensor, rng: Rng) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _contrast(x: Tensor, rng: Rng) -> Tensor:
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + 0.4 * (x - mean)


def _brightness(x: Tensor, rng: Rng) -> Tensor:
    return x + 0.25


CORRUPTIONS: dict[str, Callable[[Tensor, Rng], Tensor]] = {
    "noise": _noise, "impulses": _impulses, "blur": _blur, "contrast": _contrast, "brightness": _brightness,
}  # fmt: skip
"""Gaussian noise of 0.15; a twentieth of the pixels each black and white; the mean of 3x3 pixels; contrast times 0.4;
brightness plus 0.25."""


@torch.no_grad()
def accuracy_under_corruptions(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the mean accuracy over `CORRUPTIONS`, in [0, 1], in eval mode; the same draws at every call.

    x: images [B, C, H, W] in [0, 1]; y: labels, int64 [B].
    """
    rng = Rng(0, torch.arange(len(x), device=x.device), "corruptions")
    with evaluating(model):
        found = [
            model(corrupt(x, rng.stream(name)).clamp(0, 1)).argmax(1) == y for name, corrupt in CORRUPTIONS.items()
        ]
    return float(torch.stack(found).double().mean())

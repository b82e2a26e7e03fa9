"""Random crops and mirror images, a function of the sample and the epoch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gauntlet.threat_model.rng import Rng


def augment(x: Tensor, rng: Rng, *, crop: int, flip: bool) -> Tensor:
    """Return images [B, C, H, W], shifted by up to `crop` pixels each way over a black border, and half of them
    mirrored.
    """
    if crop:
        x = _shift(x, rng.stream("crop").integers((2,), 2 * crop + 1), crop)
    if flip:
        mirrored = rng.stream("flip").integers((1,), 2).bool()[:, :, None, None]
        x = torch.where(mirrored, x.flip(3), x)
    return x


def _shift(x: Tensor, offset: Tensor, crop: int) -> Tensor:
    """Shift images within their padding. offset: row and column where the window of each begins, int64 [B, 2]."""
    size, channels, height, width = x.shape
    padded = F.pad(x, (crop,) * 4)
    rows = offset[:, 0, None] + torch.arange(height, device=x.device)
    columns = offset[:, 1, None] + torch.arange(width, device=x.device)
    batch = torch.arange(size, device=x.device)[:, None, None, None]
    plane = torch.arange(channels, device=x.device)[None, :, None, None]
    return padded[batch, plane, rows[:, None, :, None], columns[:, None, None, :]]

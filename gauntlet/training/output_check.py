"""Does a network fit a data set? Asked before any work starts, and again of its trained weights."""

import torch
from torch import Tensor, nn

from gauntlet.data import Dataset
from gauntlet.errors import UserError, reason
from gauntlet.training.model_context import evaluating


def check_output(model: nn.Module, dataset: Dataset) -> None:
    """Pass two images through a network, in eval mode.

    Raises:
        UserError: it cannot take images of the data set, or does not give finite logits [B, classes].
    """
    shape = (dataset.channels, dataset.size, dataset.size)
    size = 2 * dataset.channels * dataset.size**2
    # A ramp, because networks that standardise each image divide by zero on a constant one.
    x = torch.linspace(0, 1, size, device=_device(model)).reshape(2, *shape)
    with torch.no_grad(), evaluating(model):
        try:
            logits = model(x)
        except Exception as cause:
            raise UserError(
                f"the model cannot take images of shape {shape}, those of {dataset.name}: {reason(cause)}; "
                "choose another model, or set its channels"
            ) from cause
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 2:
        form = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"the model gives {form} for two images; it must give logits of shape (2, {dataset.classes})")
    if logits.shape[1] != dataset.classes:
        raise UserError(
            f"model gives {logits.shape[1]} classes, data set {dataset.name} has {dataset.classes}; "
            f"set model.classes={dataset.classes}, or choose the data set of the model"
        )
    if not bool(logits.isfinite().all()):
        raise UserError("the model gives NaN or infinite logits for ordinary images; check its weights")


def _device(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device

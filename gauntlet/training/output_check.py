"""Does a network fit a data set, and can it be trained? Asked before any work, and again of its trained weights."""

import torch
from torch import Tensor, nn

from gauntlet.data import Dataset
from gauntlet.errors import UserError, reason
from gauntlet.threat_model.process_settings import settings_kept
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.watched_forward import watch
from gauntlet.training.model_context import evaluating


def check_output(model: nn.Module, dataset: Dataset) -> None:
    """Pass two images through a network, in eval mode.

    Raises:
        UserError: it cannot take images of the data set, misbehaves as `Watched` refuses it, changes a setting of the
            process, or does not give finite logits [B, classes].
    """
    with torch.no_grad():
        logits = _logits(model, dataset)
    if logits.shape[1] != dataset.classes:
        some = ", or judge it on some of its classes with model=restricted" * (logits.shape[1] > dataset.classes)
        raise UserError(
            f"model gives {logits.shape[1]} classes, data set {dataset.name} has {dataset.classes}; "
            f"set model.classes={dataset.classes}, or choose the data set of the model{some}"
        )
    if not bool(logits.isfinite().all()):
        raise UserError("the model gives NaN or infinite logits for ordinary images; check its weights")


def check_trainable(model: nn.Module, dataset: Dataset) -> None:
    """Refuse a network whose loss gives its weights no gradient: it detaches its features, or its output is constant.

    Raises:
        UserError: as said, and as `check_output` does.
    """
    with torch.enable_grad():
        if not _logits(model, dataset).requires_grad and any(p.requires_grad for p in model.parameters()):
            raise UserError(
                "the model cannot be trained: its forward detaches its output from its weights, or gives a constant; "
                "leave out detach(), no_grad() and NumPy, or load its weights, with checkpoint=FILE or included"
            )


def _logits(model: nn.Module, dataset: Dataset) -> Tensor:
    shape = (dataset.channels, dataset.size, dataset.size)
    size = 2 * dataset.channels * dataset.size**2
    # A ramp, because networks that standardise each image divide by zero on a constant one.
    x = torch.linspace(0, 1, size, device=_device(model)).reshape(2, *shape)
    call = watch(lambda z, _: model(z))
    with evaluating(model), settings_kept():
        try:
            return call(x, Rng(0, torch.arange(2, device=x.device), "output check"))
        except UserError:
            raise
        except Exception as cause:
            raise UserError(
                f"the model cannot take images of shape {shape}, those of {dataset.name}: {reason(cause)}; "
                "choose another model, or set its channels"
            ) from cause


def _device(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device

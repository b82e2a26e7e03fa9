"""The order in which the pixels of a batch lie in memory: a network that cannot take it gets the usual one."""

from typing import Any

import torch
from torch import Tensor, nn

from gauntlet.errors import UserError, reason
from gauntlet.training.model_context import evaluating


def fit_memory_order(model: nn.Module, classifier: nn.Module, shape: tuple[int, int, int], channels_last: bool) -> None:
    """Have a network given its images in the usual order where it fails on that of the batches.

    Gray images come with the channels last, as they are stored. A convolution hands that order on, and then
    `h.view(n, -1)` fails. The other networks keep it: another order rounds otherwise (decision 0013).

    Args:
        model: the network; its inputs are changed in place.
        classifier: its forward on images, in which it may be one layer.
        shape: [C, H, W] of an image.
        channels_last: whether weights and batches are in that order because the user has said so.

    Raises:
        UserError: it fails in the order that the user has asked for.
    """
    channels, height, width = shape
    if channels > 1 and not channels_last:
        return
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    count = 2 * channels * height * width
    x = torch.linspace(0, 1, count, device=device).reshape(2, height, width, channels).permute(0, 3, 1, 2)
    with torch.no_grad(), evaluating(classifier):
        try:
            classifier(x)
        except RuntimeError as cause:
            if channels_last:
                raise UserError(
                    f"the model cannot take images in the order of runtime.channels_last=true: {reason(cause)}; "
                    "leave that out, or let the model take reshape in place of view"
                ) from None
            model.register_forward_pre_hook(_in_usual_order)


def _in_usual_order(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        each.clone(memory_format=torch.contiguous_format) if isinstance(each, Tensor) else each for each in inputs
    )

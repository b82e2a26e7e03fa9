"""Passes through a network in a smaller number format."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.mode import forwarding

FORMATS = {"bfloat16": torch.bfloat16}


@contextmanager
def lowered(model: nn.Module, name: str | None, device: torch.device) -> Iterator[None]:
    """Inside, convolutions and products of the network are taken in that format; its output is float32; None: as ever.

    The network keeps its float32 weights, and losses, gradients of weights and the optimizer are float32 too.
    """
    if name is None:
        yield
        return
    plain = model.forward

    def forward(*inputs: Tensor, **options: Tensor) -> object:
        with torch.autocast(device.type, FORMATS[name]):
            output = plain(*inputs, **options)
        return output.float() if isinstance(output, Tensor) else output

    with forwarding(model, forward):
        yield

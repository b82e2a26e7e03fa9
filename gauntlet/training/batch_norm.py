"""Batch norm over several processes, and statistics estimated anew."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gauntlet.training.distributed import ProcessGroup
from gauntlet.training.model_context import forwarding


class _Sum(torch.autograd.Function):
    """The sum over the processes, with its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


@contextmanager
def synced(model: nn.Module, processes: ProcessGroup) -> Iterator[None]:
    """Have batch norms in train mode take, within the block, the statistics of the batches of all processes together.

    As torch.nn.SyncBatchNorm, which needs a GPU, but the module stays what it is.
    """
    with ExitStack() as around:
        for layer in model.modules() if processes.size > 1 else ():
            if isinstance(layer, _BatchNorm):
                around.enter_context(forwarding(layer, partial(_normalised, layer)))
        yield


def _normalised(layer: _BatchNorm, x: Tensor) -> Tensor:
    if not layer.training or not layer.track_running_stats:
        return type(layer).forward(layer, x)
    axes = [0, *range(2, x.dim())]
    count = _total(torch.full((1,), x.numel() / x.shape[1], device=x.device))
    mean = _total(x.sum(axes)) / count
    shape = (1, -1, *[1] * (x.dim() - 2))
    variance = _total((x - mean.reshape(shape)).square().sum(axes)) / count
    with torch.no_grad():
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert layer.num_batches_tracked is not None
        layer.num_batches_tracked.add_(1)
        share = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        layer.running_mean.lerp_(mean, share)
        layer.running_var.lerp_(variance * count / (count - 1), share)
    x = (x - mean.reshape(shape)) * (variance + layer.eps).rsqrt().reshape(shape)
    return x if layer.weight is None else x * layer.weight.reshape(shape) + layer.bias.reshape(shape)


def _total(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total


@contextmanager
def estimating(model: nn.Module) -> Iterator[None]:
    """Have batch norms, within the block, forget their statistics and take the mean of those of the batches that pass.

    Everything else is in eval mode, and afterwards the network is so.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    try:
        with torch.no_grad():
            yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.eval()

"""The caller's networks and process while gauntlet works with them; afterwards everything is as it was."""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn


def awake(network: nn.Module) -> str:
    """Return what to say of a network in training mode; empty where it is in eval mode."""
    found = [type(module).__name__ for module in network.modules() if module.training]
    if not found:
        return ""
    return f"{found[0]} is in training mode; it is evaluated in eval mode, and left in training mode"


@contextmanager
def borrowed(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Put networks into eval mode; afterwards modes, devices, gradients and flags of their weights are as they were."""
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(_one(network))
        yield


@contextmanager
def _one(network: nn.Module) -> Iterator[None]:
    modules = [(module, module.training) for module in network.modules()]
    weights = [(p, p.data, p.requires_grad, p.grad) for p in network.parameters()]
    buffers = [(module, dict(module._buffers)) for module, _ in modules]
    contents = [(buffer, buffer.clone()) for _, held in buffers for buffer in held.values() if buffer is not None]
    network.eval()
    try:
        yield
    finally:
        for module, training in modules:
            module.training = training
        for parameter, data, flag, gradient in weights:
            parameter.data = data
            parameter.requires_grad_(flag)
            parameter.grad = gradient
        for module, held in buffers:
            module._buffers.update(held)
        for buffer, content in contents:
            if not torch.equal(buffer, content):
                buffer.copy_(content)


@contextmanager
def steady_process() -> Iterator[None]:
    """Give the process back with the generators, threads and precision that it had."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (the caller's)
    torch_state = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    precision = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.set_grad_enabled(True)
    try:
        with torch.inference_mode(False):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = precision

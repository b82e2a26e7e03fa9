"""Looking at a network without leaving a trace in it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each submodule has its own flag back, so that frozen layers stay frozen."""
    flags = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, flag in flags:
            part.training = flag


@contextmanager
def frozen(module: nn.Module, but: Iterable[nn.Parameter] = ()) -> Iterator[None]:
    """No gradients to the weights inside, which makes those to the input cheaper; afterwards the flags are back.

    but: weights that keep theirs.
    """
    spared = {id(weight) for weight in but}
    weights = [weight for weight in module.parameters() if weight.requires_grad and id(weight) not in spared]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


@contextmanager
def forwarding(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Inside, `module(...)` calls the function in place of its forward; hooks, names and state are as ever."""
    before = module.__dict__.get("forward")
    module.forward = function
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before

"""A network that Python code hands in, known by its content: weights, classes with their source, printed form."""

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gauntlet.config.user_code import INSTALLED, attribute_lines
from gauntlet.models import checkpoint
from gauntlet.models.wrapped import logits_of
from gauntlet.system.handed_objects import taken

REMEDY = (
    "call evaluate() or certify() of gauntlet with it; to verify the run, give what makes it: "
    "gauntlet verify RUN --model FILE.py:FUNCTION"
)


class LogitsOf(nn.Module):
    """A network whose output holds the logits, as those of transformers do, cut down to them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.model(x))


class CallableNetwork(nn.Module):
    """A function from images to logits, with the networks that it reaches as children, so that they are known."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.reached = nn.ModuleList(dict.fromkeys(_reached(function)))
        self.training = self.reached.training = False  # modes are those of the networks

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.function(x))


@dataclass(frozen=True)
class GivenIdentity:
    """What a network is known by.

    Attributes:
        kind: name of its class or function.
        weights: digest of its state dict; of a function without any network that can be seen, of its answers.
        structure: digest of the source of its classes and functions as far as there is one, of the numbers that they
            hold beside the weights, and of its printed form.
    """

    kind: str
    weights: str
    structure: str

    @classmethod
    def of(cls, network: nn.Module, x: Tensor) -> "GivenIdentity":
        """Return the identity of a network in eval mode. x: a few images."""
        kind = _kind(network)
        if not network.state_dict():
            with torch.no_grad():
                return cls(kind, _answers(logits_of(network(x))), structure_of(network))
        return cls(kind, checkpoint.digest(network), structure_of(network))

    @property
    def key(self) -> str:
        """Return the name under which the network is handed in."""
        return f"{self.weights} {self.structure}"


def given_network(kind: str, weights: str, structure: str) -> nn.Module:
    """Return the network that Python code has handed in. The arguments are those of `GivenIdentity`.

    Raises:
        UserError: nobody has.
    """
    network: nn.Module = taken(GivenIdentity(kind, weights, structure).key, f"the network {kind}", REMEDY)
    return network


def structure_of(network: nn.Module) -> str:
    """Return the digest of what a network is beside its weights."""
    total = hashlib.sha256()
    for name, text in sorted(_sources(network)):
        total.update(f"{name}\n{hashlib.sha256(text.encode()).hexdigest()}\n".encode())
    packages = {type(module).__module__.split(".")[0] for module in network.modules()} - {"torch"}
    for line in sorted(attribute_lines(network, packages)):
        total.update(line.encode())
    total.update(re.sub(r" at 0x[0-9a-f]+", "", repr(network)).encode())
    return f"sha256:{total.hexdigest()}"


def _sources(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the name and the source of each class and function of the user's that a network is made of."""
    for kind in {type(module) for module in network.modules()}:
        yield from ((each.__qualname__, _source(each)) for each in kind.__mro__ if _is_own(each))
    for module in network.modules():
        if isinstance(module, CallableNetwork):
            function = _function(module.function)
            yield getattr(function, "__qualname__", type(function).__qualname__), _source(function)


def _is_own(kind: type) -> bool:
    """Return whether a class is neither torch's nor this package's, whose version stands in the record."""
    return kind.__module__.split(".")[0] not in ("torch", "torchvision", "gauntlet", "builtins")


def _source(thing: Any) -> str:
    """Return the source of a class or function; of an installed one its place; empty where there is none."""
    thing = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    try:
        if set((inspect.getsourcefile(thing) or "").split("/")) & set(INSTALLED):
            return f"{thing.__module__}.{thing.__qualname__}"
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return ""


def _function(function: Callable[..., Any]) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _kind(network: nn.Module) -> str:
    if isinstance(network, LogitsOf):
        return _kind(network.model)
    if not isinstance(network, CallableNetwork):
        return type(network).__name__
    function = _function(network.function)
    name = getattr(function, "__name__", type(function).__name__)
    return "function" if name == "<lambda>" else str(name)


def _reached(function: Any, depth: int = 3) -> Iterator[nn.Module]:
    """Yield the networks that a function reaches by its arguments, its object, its closure and its globals."""
    if isinstance(function, nn.Module):
        yield function
    elif depth and isinstance(function, functools.partial):
        for inner in (function.func, *function.args, *function.keywords.values()):
            yield from _reached(inner, depth - 1)
    elif depth and inspect.ismethod(function):
        yield from _reached(function.__self__, depth)
        yield from _reached(function.__func__, depth - 1)
    elif depth and inspect.isfunction(function):
        seen = inspect.getclosurevars(function)
        for inner in (*seen.nonlocals.values(), *seen.globals.values()):
            yield from _reached(inner, depth - 1)
    elif depth and isinstance(function, list | tuple | dict):
        for inner in function.values() if isinstance(function, dict) else function:
            yield from _reached(inner, depth - 1)
    elif depth and hasattr(function, "__dict__") and not inspect.isclass(function) and not inspect.ismodule(function):
        for inner in vars(function).values():
            yield from _reached(inner, depth - 1)


def _answers(logits: Tensor) -> str:
    """Return the digest of logits to three digits, which rounding on another machine mostly leaves alone."""
    text = " ".join(f"{value:.2e}" for value in logits.detach().double().cpu().flatten().tolist())
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

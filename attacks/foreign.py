"""Attacks of other libraries inside the judge: they propose, and what counts is decided here."""

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs
from gauntlet.system.handed_objects import taken
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

REMEDY = "call evaluate() of gauntlet with it, or name it in a configuration: attack.attack._target_=PACKAGE.FUNCTION"


@dataclass(frozen=True)
class Foreign(Knobs, key="attack"):
    """An attack of torchattacks (Kim 2020, arXiv 2010.01950), Foolbox (Rauber et al. 2017, arXiv 1707.04131), ART
    (Nicolae et al. 2018, arXiv 1807.01069) or adv-lib, or a function (model, x, y) or (x, y) that returns candidates.

    It runs on every head of the defense, as on a network. One that was built around a network attacks the head in its
    place where the library lets that be changed (torchattacks); an ART attack goes on attacking its own estimator. It
    is called with all survivors of a chunk; its random numbers come from the global generators, which are seeded for
    the call and put back. Candidates outside the threat are records of an error, never robust samples: give it the eps
    of the threat.

    Args:
        kind: what it is, for the record.
        content: digest of an attack that Python code hands in; empty for one of the configuration.
        attack: a node of yours that gives the attack: attack.attack._target_=package.module.function.
    """

    needs: ClassVar[str] = "gradient"
    unbounded: ClassVar[bool] = True
    cross_sample: ClassVar[bool] = True

    kind: str = ""
    content: str = ""
    attack: Any = None

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return the candidates of the foreign attack for images x [B, C, H, W] with labels y [B]."""
        foreign = self.attack
        if foreign is None:
            if not self.content:
                raise UserError("attack=foreign names no attack; give attack.attack._target_=PACKAGE.FUNCTION")
            foreign = taken(self.content, f"the attack {self.kind}", REMEDY)
        network = HeadNetwork(head, rng)
        with _seeded(rng), torch.enable_grad():
            proposed = proposer(foreign, threat)(network.eval(), x.clone(), y.clone())
        network.settle()
        z = torch.as_tensor(proposed).detach().to(x)
        if z.shape != x.shape:
            raise UserError(
                f"the attack {self.kind or kind_of(foreign)} gives candidates of shape {list(z.shape)} for images of "
                f"{list(x.shape)}; let it return one for each image"
            )
        return z


class HeadNetwork(nn.Module):
    """A head as a network that autograd passes through; every pass is booked.

    Passes on other batches than the whole one are spread evenly over the samples.
    """

    def __init__(self, head: CountedHead, rng: Rng) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1, device=rng.ids.device), requires_grad=False)  # tells the device
        self._head, self._rng, self._calls, self._extra = head, rng, 0, [0, 0]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [B, K], the mean over the draws of a random head."""
        head, whole = self._head, len(x) == len(self._rng.ids)
        ids = self._rng.ids if whole else torch.arange(len(x), device=x.device)
        rng = Rng(self._rng.seed, ids, f"{self._rng.name}/call{self._calls}")
        self._calls += 1
        forward = head.fast or head.head.forward
        draws = [forward(x, rng.stream(f"draw{k}")) for k in range(head.head.draws)]
        logits = draws[0] if len(draws) == 1 else torch.stack(draws).mean(0)
        self._book(0, whole, len(draws) * len(x))
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._book(1, whole, len(draws) * len(x)))  # type: ignore[no-untyped-call]
        return logits

    def settle(self) -> None:
        """Book the passes that belong to no sample in particular."""
        counts, samples = self._head.counts, max(len(self._rng.ids), 1)
        for column, extra in zip(("forwards", "backwards"), self._extra, strict=True):
            counts.add(column, self._rng.ids, -(-extra // samples))

    def _book(self, column: int, whole: bool, passes: int) -> None:
        counts = self._head.counts
        if whole:
            each = passes // max(len(self._rng.ids), 1)
            counts.add(("forwards", "backwards")[column], self._rng.ids, each)
        else:
            self._extra[column] += passes


Proposer = Callable[[nn.Module, Tensor, Tensor], Any]


def proposer(foreign: Any, threat: Threat) -> Proposer:
    """Return how an attack is called: a function (network, images, labels) that gives candidates.

    Raises:
        UserError: it is no attack of a library that is known, and no function of two or three arguments.
    """
    library = library_of(foreign)
    if library == "torchattacks":
        return lambda network, x, y: _on_its_model(foreign, network, x, y)
    if library == "foolbox":
        return lambda network, x, y: _by_foolbox(foreign, threat, network, x, y)
    if library == "art":
        return lambda network, x, y: foreign.generate(x=x.cpu().numpy(), y=y.cpu().numpy())
    if not callable(foreign):
        raise UserError(f"attack is a {type(foreign).__name__}; give the name of one, an attack object or a function")
    return foreign if _takes(foreign) == 3 else lambda network, x, y: foreign(x, y)


def library_of(foreign: Any) -> str:
    """Return the library whose calling convention an object has; empty for a function or another object."""
    modules = {kind.__module__.split(".")[0] for kind in type(foreign).__mro__}
    return next((name for name in ("torchattacks", "foolbox", "art") if name in modules), "")


def kind_of(foreign: Any) -> str:
    """Return the name of a foreign attack, such as `torchattacks.PGD`."""
    while hasattr(foreign, "func") and not hasattr(foreign, "__name__"):  # functools.partial
        foreign = foreign.func
    library = library_of(foreign)
    name = getattr(foreign, "__name__", type(foreign).__name__)
    return f"{library}.{name}" if library else str(name)


def _on_its_model(foreign: Any, network: nn.Module, x: Tensor, y: Tensor) -> Any:
    """Call an attack that holds its network, with the head in the place of that."""
    before = foreign.model
    change = getattr(foreign, "set_model", None) or (lambda model: setattr(foreign, "model", model))
    change(network)
    try:
        return foreign(x, y)
    finally:
        change(before)


def _by_foolbox(foreign: Any, threat: Threat, network: nn.Module, x: Tensor, y: Tensor) -> Any:
    import foolbox

    model = foolbox.PyTorchModel(network, bounds=(threat.low, threat.high), device=x.device)
    eps = None if threat.unbounded else threat.radius
    _, clipped, _ = foreign(model, x, y, epsilons=eps)
    return clipped


def _takes(function: Any) -> int:
    """Return whether a function is called with (model, x, y), 3, or with (x, y), 2."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return 3
    given = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in given if p.default is p.empty]
    many = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(needed) == 3 or (len(given) >= 3 and len(needed) < 2) or (many and len(needed) != 2):
        return 3
    if len(needed) == 2:
        return 2
    raise UserError(
        f"the attack {getattr(function, '__name__', type(function).__name__)} takes {len(needed)} arguments; it must "
        "take (model, x, y) or (x, y)"
    )


@contextmanager
def _seeded(rng: Rng) -> Iterator[None]:
    """Seed the global generators by the stream for what happens inside; afterwards they are as they were."""
    first = rng.ids[:1]
    seed = int(Rng(rng.seed, first, f"{rng.name}/global").bits((1,))) if len(first) else 0
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (what other libraries draw from)
    with torch.random.fork_rng(devices=[rng.ids.device] if rng.ids.is_cuda else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002

"""A small victim, and the door to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gauntlet.threat_model.access import narrowed
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Forward, Head, Victim, plain


class Crooked(nn.Module):
    """A fixed two-layer network without any global randomness: 1x4x4 pixels to `classes` logits."""

    def __init__(
        self,
        classes: int = 5,
        dtype: torch.dtype = torch.float32,
        scale: float = 1.0,
        name: str = "weights",
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        rng = Rng(7, torch.arange(1), name)
        self.first = nn.Parameter(rng.normal((16, 24), dtype=dtype)[0] / 4, requires_grad=False)
        self.second = nn.Parameter(rng.stream("2").normal((24, classes), dtype=dtype)[0] / 2, requires_grad=False)
        self.scale, self.offset = scale, offset

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (torch.relu((x - 0.5).flatten(1) @ self.first) @ self.second) + self.offset


@dataclass(frozen=True)
class Ensemble(CountedHead):
    """Several heads as one; `predict` alone says what is broken."""

    together: tuple[CountedHead, ...] = ()

    @property
    def members(self) -> tuple[CountedHead, ...]:
        return self.together


def ensemble(networks: Sequence[nn.Module], predict: Forward, counts: Counts) -> Ensemble:
    """Heads on these networks, as one."""
    members = tuple(
        CountedHead(Head(f"member{k}", plain(network)), predict, counts) for k, network in enumerate(networks)
    )
    return Ensemble(Head("ensemble", predict), predict, counts, together=members)


class Case:
    """Images that the network gets right, and one way to attack them."""

    def __init__(self, network: nn.Module, count: int = 24, dtype: torch.dtype = torch.float32) -> None:
        self.network = network
        like = {name: getattr(network, name) for name in ("scale", "offset") if hasattr(network, name)}
        self.other = Crooked(dtype=dtype, name="other", **like)
        self.victim = Victim(plain(network), (network,))
        self.ids = torch.arange(100, 100 + count)
        self.x = Rng(0, self.ids, "images").uniform((1, 4, 4), -0.2, 1.2, dtype=dtype).clamp(0, 1)
        self.y = network(self.x).argmax(1)

    def attack(
        self,
        attack: Callable[..., Tensor],
        threat: Threat,
        index: Tensor | None = None,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Counts]:
        if getattr(attack, "needs", "") == "training-set":
            attack = self.fitted(attack, threat)
        at = torch.arange(len(self.ids)) if index is None else index
        counts = Counts.of(self.ids[at])
        head = CountedHead(self.victim.heads[0], self.victim.predict, counts, batch_size=batch_size)
        if getattr(attack, "together", False):
            head = ensemble((self.network, self.other), self.victim.predict, counts)
        if getattr(attack, "pool", 0):
            attack = attack.stocked(self.x[: attack.pool], self.y[: attack.pool])
        door = narrowed(head, getattr(attack, "needs", "gradient"))
        return attack(door, self.x[at], self.y[at], threat=threat, rng=Rng(0, self.ids[at], "attack")), counts

    def fitted(self, attack: Any, threat: Threat) -> Any:
        """The attack after it was fitted to all the images."""
        head = CountedHead(self.victim.heads[0], self.victim.predict, Counts.of(self.ids[:0]))
        *_, last = attack.fit(head, self, threat=threat, rng=Rng(0, self.ids, "fit"))
        return attack.fitted(last.delta)

    def read(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[positions], self.y[positions]

    def scores(self, z: Tensor, threat: Threat | None = None) -> Tensor:
        """Of what an attack under the threat returned for all the images."""
        scores: Tensor = self.network(z if threat is None else threat.realized(z, self.x))
        return scores

    def broken(self, z: Tensor, threat: Threat | None = None) -> Tensor:
        return self.scores(z, threat).argmax(1) != self.y


@pytest.fixture
def case() -> Case:
    return Case(Crooked())


@pytest.fixture
def make_case() -> Callable[..., Case]:
    def make(dtype: torch.dtype = torch.float32, **knobs: float) -> Case:
        return Case(Crooked(dtype=dtype, **knobs), dtype=dtype)

    return make

"""A small data set without a test part, and a small network with batch norm and dropout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gauntlet.data import Batch
from gauntlet.data.digits import Digits
from gauntlet.threat_model.rng import Rng
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.model_selection import Selection
from gauntlet.training.objectives.objective import PGDAT, Standard
from gauntlet.training.recipe import Recipe


@dataclass(frozen=True)
class Slice:
    """Some images of a split."""

    whole: Any
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, positions: Sequence[int] | slice) -> Batch:
        at = np.flatnonzero(np.isin(self.whole.ids, self.ids))[positions]
        return self.whole.read(at.tolist())

    def digest(self) -> str:
        return self.whole.digest()

    def selection(self) -> str:
        return f"first {len(self.ids)}"


@dataclass(frozen=True)
class FewDigits:
    """The first digits of the train and of the validation part; there is no test part."""

    images: int = 100
    name: str = "few"
    classes: int = 10
    channels: int = 1
    size: int = 8
    budgets: dict[str, str | float] = field(default_factory=lambda: {"linf": 0.15})

    def split(self, part: str) -> Slice:
        assert part in ("train", "validation"), "training must not look at the test part"
        whole = Digits().split(part)
        return Slice(whole, whole.ids[: self.images])


class Net(nn.Module):
    """Three convolutions with batch norm, and dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside, stride in ((1, 8, 2), (8, 16, 2), (16, 16, 1)):
            layers += [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.body(x).flatten(1)))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def few() -> FewDigits:
    return FewDigits()


@pytest.fixture
def batch(few) -> Batch:
    """32 digits."""
    return few.split("train").read(range(32))


@pytest.fixture
def rng(batch) -> Rng:
    return Rng(0, batch.ids, "test")


@pytest.fixture
def make_net() -> Callable[..., Net]:
    """The same network at every call, slightly trained so that its gradients mean something."""

    def make(dropout: float = 0.0, steps: int = 0) -> Net:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            net = Net(dropout)
            batch = FewDigits(64).split("train").read(range(64))
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
            for _ in range(steps):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(batch.x), batch.y).backward()
                optimizer.step()
            net.zero_grad()
        return net

    return make


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    """A recipe of seconds: two epochs of standard training, or of PGD training with `steps`."""

    def make(steps: int | None = None, **changes: Any) -> Recipe:
        objective = Standard() if steps is None else PGDAT(InnerPGD(eps=0.15, steps=steps))
        selection = Selection(eps=0.15, by="clean" if steps is None else "pgd", steps=3)
        return replace(Recipe(objective=objective, epochs=2, batch_size=32, selection=selection), **changes)

    return make

"""Networks of digits whose training hides the gradient, for `benchmarks.museum`: trained in seconds, kept in `runs`."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.projected_ascent import Step
from gauntlet.data.dataset import Batch, Dataset
from gauntlet.models.small_cnn import SmallCNN

EPOCHS, BATCH, RATE = 40, 64, 2e-3

FOLDER = Path("runs/_museum")

PACE = 10.0
"""Of the logarithm of the scale of the logits, in units of the other weights."""

Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""(network, images, labels, randomness) -> what is minimized."""


@dataclass(frozen=True)
class SoftmaxPGD(PGD, key="attack"):
    """PGD on cross-entropy as it is commonly written: where softmax rounds to 1, its gradient is zero."""

    def plan(self) -> list[Step]:
        """Return the steps of one run."""
        return [Step(softmax_cross_entropy, step.length) for step in super().plan()]


def softmax_cross_entropy(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the gradient of the cross-entropy of the softmax, [B, K], in the precision of the logits."""
    return logits.softmax(1) - functional.one_hot(y, logits.shape[1]).to(logits)


class SelfScaled(nn.Module):
    """A network that learns the logarithm of a factor of its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.log_scale = network, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, K]."""
        logits: Tensor = (PACE * self.log_scale).exp() * self.network(x)
        return logits


def reward(network: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
    """Return the loss of REINFORCE (Williams 1992): a class is drawn from the softmax, and rewarded if it is right.

    The mean reward of the batch is the baseline. No gradient of a label's probability is ever taken.
    """
    chances = network(x).log_softmax(1)
    drawn = torch.multinomial(chances.exp().detach(), 1, generator=draws)
    rewards = (drawn.squeeze(1) == y).to(x)
    return -((rewards - rewards.mean()) * chances.gather(1, drawn).squeeze(1)).mean()


def paid_scale(network: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
    """Return cross-entropy less a pay for the scale of the logits, so that softmax rounds to 1 on what is right."""
    assert isinstance(network, SelfScaled)
    return functional.cross_entropy(network(x), y) - PACE * network.log_scale


def trained(name: str, loss: Loss, network: nn.Module, images: Batch) -> nn.Module:
    """Return the network after training from seed 0 by Adam; kept under the content of this file and of torch."""
    text = Path(__file__).read_bytes() + torch.__version__.encode()
    place = FOLDER / f"{name}-{hashlib.sha256(text).hexdigest()[:12]}.pt"
    if place.exists():
        network.load_state_dict(torch.load(place, weights_only=True))
        return network.eval()
    draws, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam(network.parameters(), RATE)
    network.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images.y), generator=draws).split(BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss(network, images.x[rows], images.y[rows], draws).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), place)
    return network.eval()


def by_reward(dataset: Dataset) -> nn.Module:
    """Return a network of digits that was trained by policy gradient alone."""
    torch.manual_seed(0)
    return trained("reward", reward, SmallCNN(10, 1, 8), dataset.split("train").read(slice(None)))


def by_paid_scale(dataset: Dataset) -> nn.Module:
    """Return a network of digits whose optimizer was paid for large logits."""
    torch.manual_seed(0)
    return trained("paid_scale", paid_scale, SelfScaled(SmallCNN(10, 1, 8)), dataset.split("train").read(slice(None)))

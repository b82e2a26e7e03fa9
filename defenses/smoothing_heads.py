"""What the deployments of smoothed classifiers share: the heads that an informed attacker needs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gauntlet.certification.certifiable import Smoothed
from gauntlet.certification.noise import Noise
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Forward, Head, Victim, plain

FEW = 8
"""Copies whose activations are kept for the gradient; with more of them each is computed again on the way back."""


def check_copies(copies: Sequence[int]) -> None:
    """Refuse numbers of copies below 1. Raises UserError."""
    if any(number < 1 for number in copies) or len(set(copies)) < len(copies):
        raise UserError(f"defense.copies={list(copies)} must be different whole numbers of at least 1, such as [1,8]")


def smoothed(network: nn.Module, noise: Noise, copies: Sequence[int]) -> Victim:
    """Return the deployment of a network that votes on noisy copies: one prediction is one vote, and votes are counted
    by the protocol. Heads: the mean probabilities over copies, and the bare network.
    """

    def view(x: Tensor, rng: Rng, number: int) -> Tensor:
        scores: Tensor = network(noise(x, rng, number))
        return scores

    heads = (*mean_heads(copies, view), Head("base", plain(network)))
    mechanism = Smoothed(network, noise)
    return Victim(lambda x, rng: view(x, rng, 0), (network,), heads, randomized=True, mechanism=mechanism)


def mean_heads(copies: Sequence[int], view: Callable[[Tensor, Rng, int], Tensor]) -> tuple[Head, ...]:
    """Return a head `copies<m>` for each m: the logarithm of the mean probabilities over m random copies (Salman et al.
    2019).

    Its loss is that of the mean, not the mean of losses, which a few unlucky copies would dominate. Each gradient has
    fresh copies.

    view: (images, randomness, number of the copy) -> logits of that copy.
    """
    return tuple(Head(f"copies{number}", _mean(number, view)) for number in copies)


def _mean(copies: int, view: Callable[[Tensor, Rng, int], Tensor]) -> Forward:
    def forward(x: Tensor, rng: Rng) -> Tensor:
        if copies > FEW and torch.is_grad_enabled():
            logs = [checkpoint(view, x, rng, number, use_reentrant=False) for number in range(copies)]
        else:
            logs = [view(x, rng, number) for number in range(copies)]
        mean: Tensor = torch.stack([each.log_softmax(1) for each in logs]).logsumexp(0)
        return mean

    return forward

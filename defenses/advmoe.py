"""AdvMoE: a mixture of experts whose router and experts are trained against each other's attacks in turn."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from gauntlet.defenses.base import Card, Defense
from gauntlet.errors import UserError
from gauntlet.models.moe import MixtureOfExperts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head, Victim, plain


@dataclass(frozen=True)
class AdvMoE(Defense):
    """A router sends each image down one of E narrow pathways of a convolutional network.

    From Zhang et al., "Robust mixture-of-expert training for convolutional neural networks", arXiv 2308.10110. The
    choice of the router has no gradient, so an attack on the deployed forward sees the pathway of the moment alone. The
    surrogates are what it misses: the gradient straight through the choice, a soft choice, and each pathway by itself.
    One of the pathways is that of the clean image: the attack with the route fixed to the clean one is among them. What
    they find counts if it fools the deployed forward, with whatever route it then takes.

    Args:
        parts: "model", a `gauntlet.models.moe.MixtureOfExperts`; the recipe is `advmoe`.

    Raises:
        UserError: parts of other names; on deployment, a network of another kind.
    """

    card: ClassVar[Card] = Card(
        "A mixture of narrow convolutional pathways with one router, trained adversarially in turn.",
        source="Zhang et al. 2023, arXiv 2308.10110",
        claim="white-box attacks within the norm ball of its training, aware of the router",
        forwards=1.0,
    )

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        model = models["model"]
        if not isinstance(model, MixtureOfExperts):
            raise UserError(
                f"defense=advmoe needs a mixture of experts, not {type(model).__name__}; "
                "choose one with model@defense.parts.model.model=moe_small_cnn"
            )
        surrogates = [
            Head("straight_through", lambda x, rng: model.straight_through(x), stand_in=True),
            Head("soft", partial(soft, model)),
        ]
        surrogates += [Head(f"pathway_{e}", partial(_along, model, e)) for e in range(model.experts)]
        return Victim(plain(model), (model,), tuple(surrogates))


def soft(model: MixtureOfExperts, x: Tensor, rng: Rng) -> Tensor:
    """Return the log of the sum over e of w_e softmax(logits of pathway e), [B, K]: the network with a soft choice.

    w is the softmax of the scores, divided by the gap between the two largest where that is above one, so that neither
    sureness nor scale of the router hides its gradient.
    """
    scores = model.scores(x)
    if model.experts > 1:
        best = scores.detach().topk(2, 1).values
        scores = scores / (best[:, :1] - best[:, 1:]).clamp_min(1)
    each = [model.pathway(x, e).log_softmax(1) for e in range(model.experts)]
    return (scores.log_softmax(1)[:, :, None] + torch.stack(each, 1)).logsumexp(1)


def _along(model: MixtureOfExperts, expert: int, x: Tensor, rng: Rng) -> Tensor:
    return model.pathway(x, expert)

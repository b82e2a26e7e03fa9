"""Whether all numbers of a training are finite, of which the loss alone says too little."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gauntlet.training.step import NotFinite, Player
from gauntlet.training.weight_averaging import Averaged


def check_finite(
    losses: Tensor, model: nn.Module, auxiliary: nn.Module | None, average: Averaged | None, players: Iterable[Player]
) -> None:
    """Check the losses, all weights and running statistics, and what optimizers and weightings remember.

    Args:
        auxiliary: the network with batch norms of its own, where the objective has one.
        average: of the weights, where the recipe has one.

    Raises:
        NotFinite: names the first that is NaN or infinite.
    """
    found: list[tuple[str, Tensor]] = [("the loss", losses)]
    modules = {"": model, "auxiliary ": auxiliary, "average of ": average.module if average else None}
    for prefix, module in modules.items():
        found += module.state_dict(prefix=prefix).items() if module else ()
    for player in players:
        found += ((f"{name} of the weighting", value) for name, value in player.weigher.memory.items())
        for number, entry in player.optimizer.state_dict()["state"].items():
            found += ((f"{name} of weight {number}", value) for name, value in entry.items() if torch.is_tensor(value))
    for name, value in found:
        if not bool(value.isfinite().all()):
            raise NotFinite(name, {})

"""A training repeated from its record, and its weights compared to the last bit."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from gauntlet.data.dataset import Dataset
from gauntlet.models import checkpoint
from gauntlet.training.loop import BEST
from gauntlet.training.trained_network import TrainedNetwork


def retrained(part: TrainedNetwork, dataset: Dataset, given: Mapping[str, nn.Module], module: nn.Module) -> str:
    """Train again and return what is wrong with the weights; empty: they are those of the training, bit for bit.

    It takes as long as the training did, and leaves nothing behind.

    Args:
        given: loaded networks that the objective uses.
        module: the network with the recorded weights.

    Raises:
        UserError: the training fails.
    """
    device = next((tensor.device for tensor in module.state_dict().values()), "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = part.train(dataset, Path(scratch), given=given, device=device)
        digest = checkpoint.load(part.first_network().to(device), folder / BEST)
    if digest == (recorded := checkpoint.digest(module)):
        return ""
    return (
        f"training again gives {digest[:19]}, not {recorded[:19]}; other versions, another device or number of "
        "threads round otherwise: repeat it where it was trained before calling it forged"
    )

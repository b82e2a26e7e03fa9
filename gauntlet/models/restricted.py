"""A network of more classes than the data set has, judged on the classes that stand for those of the data set."""

from typing import Any

import torch
from torch import Tensor, nn

from gauntlet.data.class_groups import ClassGroups
from gauntlet.errors import UserError
from gauntlet.models.wrapped import logits_of


class Restricted(nn.Module):
    """The largest logit of each group of classes of a network, the other classes left out.

    So are ImageNet-A and -R judged, with one class in each group (arXiv 1907.07174), and ObjectNet, with up to three.
    Its gradient is that of the largest logit.

    Children: model, the network; weights of the bare network load as they are.

    Args:
        network: takes pixels in [0, 1], and gives logits [B, n] of all its classes.
        groups: `imagenet_a`, `imagenet_r`, or a file or folder, as `gauntlet.data.class_groups.ClassGroups` takes it.

    Raises:
        UserError: no network, or no groups.
    """

    columns: Tensor

    def __init__(self, network: nn.Module, groups: Any) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise UserError(
                f"model.network gives a {type(network).__name__}, not a torch.nn.Module; check its _target_"
            )
        found = ClassGroups.of(groups, "model.groups")
        most = max(map(len, found.columns))
        # A shorter group repeats its first class, which changes no maximum.
        padded = [(*each, *each[:1] * (most - len(each))) for each in found.columns]
        self.model = network
        self.outputs, self.origin = found.outputs, found.origin
        self.register_buffer("columns", torch.tensor(padded), persistent=False)
        self.fewest = 1 + max(max(each) for each in found.columns)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, groups] of pixels [B, C, H, W] in [0, 1]."""
        logits = logits_of(self.model(x))
        if isinstance(logits, Tensor):  # not a symbol of a graph
            self._check(logits)
        return logits[:, self.columns].amax(2)

    def _check(self, logits: Tensor) -> None:
        """Refuse logits of another number of classes, in which the groups would mean something else."""
        given = logits.shape[1] if logits.dim() == 2 else 0
        if given < self.fewest or (self.outputs is not None and given != self.outputs):
            wanted = self.outputs or f"at least {self.fewest}"
            raise UserError(
                f"the network gives {given} classes, and {self.origin} is about {wanted}; set "
                f"model.network.classes={self.outputs or self.fewest}, or choose another network"
            )

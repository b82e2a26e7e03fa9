"""The judge: predictions of the deployed defense on candidates."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Judged:
    """What the deployed defense says of some images: scores [B, K] and the predicted class [B].

    Where it is randomised the scores are means, `wrong` is the share of wrong draws [B], both over the draws that
    choose the worst candidate, and `fresh` is the share of wrong verdicts [B] in the draws that are reported. Of a
    mixture both are the exact expectation, and `fooled` tells the members that are wrong, int64 [B] (see `bits`).
    """

    scores: Tensor
    pred: Tensor
    wrong: Tensor | None = None
    fresh: Tensor | None = None
    fooled: Tensor | None = None

    def select(self, mask: Tensor) -> "Judged":
        """Of some of the images; mask: bool [B]."""
        each = (self.scores, self.pred, self.wrong, self.fresh, self.fooled)
        return Judged(*(None if value is None else value[mask] for value in each))  # type: ignore[arg-type]


def _margin(scores: Tensor, label: Tensor) -> np.ndarray:
    other = scores.scatter(1, label[:, None], -torch.inf).amax(1)
    margin: np.ndarray = (scores.gather(1, label[:, None]).squeeze(1) - other).float().numpy()
    return margin

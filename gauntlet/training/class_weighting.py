"""DAFA: weights and budgets of classes, by how their images are taken for each other."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gauntlet.errors import UserError, some
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.training.sample_weighting import TERMS, BatchOutcome, Memory, Progress, Weighting


@dataclass(frozen=True)
class DAFA(Knobs, Weighting, key="recipe.weighting"):
    """Distance-aware fair adversarial training: a weight of each class, for loss and budget (Lee et al. 2024, arXiv
    2401.12532).

    In the last epoch before `start` the probabilities p on the examples are collected: S_ij is the mean of p_j over the
    examples of class i. Of each pair of classes the one with the smaller S_ii = p of the right class, the harder one i,
    takes strength S_ij S_jj of weight from the easier one j. From then on the budget and the loss of a sample are
    multiplied by the weight of its class. Pairs give what they take, so the weights of all classes sum to their number;
    one that would fall below zero stays there.

    Args:
        strength: the authors' lambda, >= 0.
        start: share of the training after which classes are weighted, in (0, 1); at the next end of an epoch.
        term: the part of the loss that is weighted; null: all of it. The authors weight the cross-entropy of TRADES
            alone: clean.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[tuple[str, ...]] = ("logits",)

    strength: float = knob(1.0, least=0)
    start: float = knob(0.63636, above=0, below=1)
    term: str | None = choice(None, TERMS, optional=True)

    def factors(self, y: Tensor, progress: Progress, memory: Memory) -> Tensor | None:
        return None if progress.epoch < self.start else self._each(memory)[y]

    def weights(self, batch: BatchOutcome, memory: Memory) -> Tensor:
        if batch.progress.epoch < self.start:
            return torch.ones_like(batch.losses)
        return self._each(memory)[batch.y].to(batch.losses.dtype)

    def remembered(self, batch: BatchOutcome, memory: Memory) -> Memory:
        if batch.progress.epoch >= self.start:
            return memory
        assert batch.logits is not None
        p, epoch = batch.logits.softmax(1).float(), torch.tensor(batch.progress.epoch, dtype=torch.float64)
        members = F.one_hot(batch.y, p.shape[1]).to(p)
        sums, counts = members.T @ p, members.sum(0)
        if memory and torch.equal(memory["epoch"].cpu(), epoch):
            sums, counts = memory["sums"] + sums, memory["counts"] + counts
        return {"sums": sums, "counts": counts, "epoch": epoch}

    def columns(self, memory: Memory) -> dict[str, float]:
        each = self._each(memory) if memory and bool((memory["counts"] > 0).all()) else torch.ones(1)
        return {"class weight/least": float(each.min()), "class weight/largest": float(each.max())}

    def _each(self, memory: Memory) -> Tensor:
        counts = memory["counts"]
        if missing := (counts == 0).nonzero().flatten().tolist():
            raise UserError(
                f"recipe.weighting=DAFA: no image of class {some(missing)} came up in the epoch that measures the "
                "classes; leave out classes without images, or take a smaller recipe.batch_size"
            )
        return class_weights(memory["sums"] / counts[:, None], self.strength)


def class_weights(similarity: Tensor, strength: float) -> Tensor:
    """Return the weight of each class [K]; similarity: S [K, K], the mean probability of class j on class i."""
    own = similarity.diagonal()
    taken = strength * similarity * own  # i from j: S_ij S_jj
    harder = own[:, None] < own
    moved = torch.where(harder, taken, torch.zeros_like(taken))
    return (1 + moved.sum(1) - moved.sum(0)).clamp_min(0)

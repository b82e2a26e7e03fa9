"""Low-rank layers that stay well conditioned: orthonormal factors, and a core with singular values of one size."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.models.low_rank import LowRank, factored
from gauntlet.training.sample_weighting import Progress
from gauntlet.training.weight_constraint import WeightConstraint

NEAR = 0.1
"""How far from one the squared length of a row may be for the decomposition by its Gram matrix."""


@dataclass(frozen=True)
class ConditionedFactors(Knobs, WeightConstraint, key="recipe.constraint"):
    """W = U S V^T with U^T U = V^T V = I and a condition number of S, hence of W, of 1 + tau at most (CondLR;
    Savostianova et al. 2023, arXiv 2306.01485).

    Before a step, the gradients G_U and G_V lose their components within the spans of U and V and are divided by S S^T
    and S^T S: without momentum the first order of the step is then G - (I - U U^T) G (I - V V^T), the projection of the
    dense gradient G onto the tangent space of the matrices of that rank. After it, U and V become the factors Q of
    their QR decompositions with a positive diagonal of R, and the singular values of S are clipped to m [1 - d, 1 + d],
    m their mean and d = tau / (2 + tau).

    Args:
        tau: >= 0; null: condition numbers are not bounded.

    Raises:
        UserError: a value outside its range.
    """

    tau: float | None = knob(0.5, least=0, whole=False, optional=True, hint="null is no bound")

    def begin(self, model: nn.Module) -> None:
        """Make the first factors orthonormal and well conditioned. Raises UserError where there are no factors."""
        layers = [layer for _, layer in factored(model)]
        if not layers:
            raise UserError(
                "recipe.constraint keeps the factors of a network in shape, and this one has none; use model=low_rank, "
                "or defense=condlr"
            )
        for layer in layers:
            self._retract(layer)

    @contextmanager
    def around(self, model: nn.Module, progress: Progress) -> Iterator[None]:
        layers = [layer for _, layer in factored(model)]
        for layer in layers:
            _to_tangent_space(layer)
        yield
        for layer in layers:
            self._retract(layer)

    def columns(self, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        """Return the largest and the mean condition number of the factored layers."""
        found = [condition(layer) for _, layer in factored(model)]
        return {"condition/largest": max(found), "condition/mean": sum(found) / len(found)} if found else {}

    @torch.no_grad()
    def _retract(self, layer: LowRank) -> None:
        u, s, v = (part.weight for part in (layer.left, layer.core, layer.right))
        u.copy_(_orthonormal(u.flatten(1).T).T.reshape(u.shape))
        v.copy_(_orthonormal(v.flatten(1)).reshape(v.shape))
        # What is not finite has no decomposition; the end of the epoch reports it.
        if self.tau is not None and bool(s.isfinite().all()):
            left, values, right = torch.linalg.svd(s.flatten(1))
            middle, far = values.mean(), self.tau / (2 + self.tau)
            values = values.clamp(middle * (1 - far), middle * (1 + far))
            s.copy_((left * values @ right).reshape(s.shape))


def condition(layer: LowRank) -> float:
    """Return the condition number of the weights of a layer: the largest singular value of S over the smallest."""
    values = torch.linalg.svdvals(layer.core.weight.detach().flatten(1).double())
    return float(values[0] / values[-1].clamp_min(torch.finfo(values.dtype).tiny))


def _orthonormal(rows: Tensor) -> Tensor:
    """Return the transposed factor Q, [r, n], of the QR decomposition of rows^T whose R has a positive diagonal.

    That is L^-1 rows with L L^T = rows rows^T, which is exact where rows are nearly orthonormal, as they are after a
    step; else R has its signs set. Rows that are not finite stay.
    """
    gram = rows @ rows.T
    far = float((gram.diagonal() - 1).abs().max())
    if not math.isfinite(far):
        return rows
    factor, failed = torch.linalg.cholesky_ex(gram)
    if far < NEAR and not bool(failed):
        near: Tensor = torch.linalg.solve_triangular(factor, rows, upper=False)
        return near
    q, r = torch.linalg.qr(rows.T)
    sign = r.diagonal().sign()
    orthonormal: Tensor = (q * torch.where(sign == 0, 1.0, sign)).T
    return orthonormal


@torch.no_grad()
def _to_tangent_space(layer: LowRank) -> None:
    """Change the gradients of U and V^T in place; those that are frozen have none."""
    u, s, v = (part.weight.flatten(1) for part in (layer.left, layer.core, layer.right))
    if (gradient := layer.left.weight.grad) is not None:
        g = gradient.flatten(1)
        gradient.copy_((torch.addmm(g, u, u.T @ g, alpha=-1) @ _inverse(s @ s.T)).reshape(gradient.shape))
    if (gradient := layer.right.weight.grad) is not None:
        g = gradient.flatten(1)
        gradient.copy_((_inverse(s.T @ s) @ torch.addmm(g, g @ v.T, v, alpha=-1)).reshape(gradient.shape))


def _inverse(square: Tensor) -> Tensor:
    """Return the inverse; a trace of the identity keeps a core that has lost a direction from being singular."""
    ridge = 1e-6 * square.diagonal().mean().clamp_min(torch.finfo(square.dtype).tiny)
    inverse: Tensor = torch.linalg.inv_ex(square + ridge * torch.eye(len(square), device=square.device))[0]
    return inverse

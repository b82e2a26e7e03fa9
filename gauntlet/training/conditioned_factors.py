"""Low-rank layers that stay well conditioned: orthonormal factors, and a core with singular values of one size."""

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
        # What is not finite has no decomposition; the end of the epoch reports it.
        if not all(bool(weight.isfinite().all()) for weight in (u, s, v)):
            return
        u.copy_(_orthonormal(u.flatten(1)).reshape(u.shape))
        v.copy_(_orthonormal(v.flatten(1).T).T.reshape(v.shape))
        if self.tau is not None:
            left, values, right = torch.linalg.svd(s.flatten(1))
            middle, far = values.mean(), self.tau / (2 + self.tau)
            values = values.clamp(middle * (1 - far), middle * (1 + far))
            s.copy_((left * values @ right).reshape(s.shape))


def condition(layer: LowRank) -> float:
    """Return the condition number of the weights of a layer: the largest singular value of S over the smallest."""
    values = torch.linalg.svdvals(layer.core.weight.detach().flatten(1).double())
    return float(values[0] / values[-1].clamp_min(torch.finfo(values.dtype).tiny))


def _orthonormal(matrix: Tensor) -> Tensor:
    """Return Q of the QR decomposition [n, r] whose R has a positive diagonal: the one that is next to the matrix."""
    q, r = torch.linalg.qr(matrix)
    sign = r.diagonal().sign()
    orthonormal: Tensor = q * torch.where(sign == 0, 1.0, sign)
    return orthonormal


@torch.no_grad()
def _to_tangent_space(layer: LowRank) -> None:
    """Change the gradients of U and V^T in place; those that are frozen have none."""
    u, s, v = (part.weight.flatten(1) for part in (layer.left, layer.core, layer.right))
    if (gradient := layer.left.weight.grad) is not None:
        g = gradient.flatten(1)
        gradient.copy_(_solved(s @ s.T, (g - u @ (u.T @ g)).T).T.reshape(gradient.shape))
    if (gradient := layer.right.weight.grad) is not None:
        g = gradient.flatten(1)
        gradient.copy_(_solved(s.T @ s, g - g @ v.T @ v).reshape(gradient.shape))


def _solved(square: Tensor, right: Tensor) -> Tensor:
    """Return square^-1 right; a trace of the identity keeps a core that has lost a direction from being singular."""
    ridge = 1e-6 * square.diagonal().mean().clamp_min(torch.finfo(square.dtype).tiny)
    solution: Tensor = torch.linalg.solve(square + ridge * torch.eye(len(square), device=square.device), right)
    return solution

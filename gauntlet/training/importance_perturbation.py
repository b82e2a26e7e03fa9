"""Sharpness by importance: filters that will be pruned are flattened most."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.knobs import knob
from gauntlet.training.weight_perturbation import WeightPerturbation


@dataclass(frozen=True, kw_only=True)
class ImportancePerturbation(WeightPerturbation):
    """Each filter is moved by a radius of its own, the larger the less important it is (AdaSAP; Bair et al. 2024, arXiv
    2306.14306).

    With s_i the Euclidean norm of filter i of a tensor, its radius is
    radius - (radius - smallest) (s_i - min s) / (max s - min s) until `until`, and `uniform` afterwards. Filters
    that are zero stay at zero and count in neither extreme.

    Args:
        radius: of the least important filter.
        smallest: of the most important one, >= 0.
        uniform: of all afterwards, >= 0.
        until: share of the training, in [0, 1].
        relative, scope, shape, include, steps, step_size, adaptive, loss, clip, batch_norm, start: as for
            `WeightPerturbation`.

    Raises:
        UserError: a value outside its range.
    """

    radius: float = 2.0
    relative: bool = False
    scope: str = "filter"
    adaptive: bool = True
    smallest: float = knob(0.01, least=0)
    uniform: float = knob(0.5, least=0)
    until: float = knob(0.6, least=0, most=1)

    def _radii(self, origin: list[Tensor], progress: float) -> list[Tensor]:
        radii = self.by_importance(origin, progress)
        return [radius * size for radius, size in zip(radii, self._units(origin), strict=True)]

    def by_importance(self, weights: list[Tensor], progress: float) -> list[Tensor]:
        """Return the radius of each filter, [n, 1, ...] like the weights [n, ...]; progress: share of the training."""
        return [self._of(weight, progress) for weight in weights]

    def _of(self, weight: Tensor, progress: float) -> Tensor:
        sizes = torch.linalg.vector_norm(weight.flatten(1) if weight.dim() > 1 else weight[:, None], dim=1)
        there = sizes > 0
        if progress >= self.until or not bool(there.any()):
            radii = torch.full_like(sizes, self.uniform)
        else:
            least, most = sizes[there].min(), sizes[there].max()
            share = (sizes - least) / (most - least).clamp_min(torch.finfo(sizes.dtype).tiny)
            radii = self.radius - (self.radius - self.smallest) * share
        found: Tensor = (radii * there).reshape(-1, *[1] * (weight.dim() - 1))
        return found

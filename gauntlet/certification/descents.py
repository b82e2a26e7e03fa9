"""Counterexamples to functions that a search leaves open: descents from random images and crossings of the lowest."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.crown.branch_and_bound import Falls
from gauntlet.certification.crown.deadline import Deadline
from gauntlet.certification.crown.graph import Graph
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

STARTS, STEPS = 8, 50
"""Descents for each function, and their steps."""

NEAR = 0.1
"""Share of its value at the image down to which the function that falls furthest must come to be descended further."""

POOL, LONG, PARENTS = 100, 200, 60
"""Descents for that function, their steps, and how many of the lowest images are crossed."""

GENERATIONS, SHORT, SPOILED = 24, 80, 0.03
"""Most crossings of a hundred pairs each, steps from there, and the share of entries that are mirrored first."""

PATIENCE, GAIN = 4, 0.01
"""Crossings without so much gain, as a share of the lowest value, after which there is no other."""

MOMENTUM = 0.75


@dataclass(frozen=True)
class Descents:
    """Looks for an image of another class by the gradients of the network behind the bounds.

    Steps have momentum and go in the steepest direction (MI-FGSM; Dong et al. 2018, arXiv 1710.06081), each shorter
    than the one before. A crossing takes each pixel from one of two images of the pool.

    Args:
        graph: the network, float32.
        functions: of the scores, positive where the class is right, float32 [T, K].
        threat: of one image.
        x: the image, float32 [1, C, H, W].
        rng: of the image.
        deadline: after it no step is begun.
    """

    graph: Graph
    functions: Tensor
    threat: Threat
    x: Tensor
    rng: Rng
    deadline: Deadline

    def found(self, falls: Falls) -> Tensor | None:
        """Return an image that falls, [C, H, W], or None."""
        number = len(self.functions)
        target = torch.arange(number, device=self.x.device).repeat(STARTS)
        z, value = self.descended(self.starts(len(target), 0), target, STEPS, 1.0)
        if (example := falls(z)) is not None:
            return example
        lowest = value.reshape(STARTS, number).amin(0)
        share = lowest / (self.graph.forward(self.x)[0] @ self.functions.T).clamp_min(1e-30)
        if float(share.min()) > NEAR:
            return None
        target = share.argmin().expand(POOL)
        z, value = self.descended(self.starts(POOL, 1), target, LONG, 1.0)
        stuck, low = 0, torch.inf
        for generation in range(GENERATIONS):
            order = value.argsort()[:PARENTS]
            z, value = z[order], value[order]
            if (example := falls(z)) is not None:
                return example
            stuck = 0 if float(value[0]) < (1 - GAIN) * low else stuck + 1
            low = float(value[0])
            if stuck > PATIENCE or self.deadline.over:
                return None
            child, worth = self.descended(self.crossed(z, generation), target, SHORT, 0.4)
            z, value = torch.cat([z, child]), torch.cat([value, worth])
        return falls(z[value.argsort()[:PARENTS]])

    def starts(self, count: int, round_: int) -> Tensor:
        """Return random legal images."""
        rng, draw, shape = self._many(count, f"starts{round_}"), self._draws(count), tuple(self.x.shape[1:])
        threat, x = self._around(count)
        return threat.sample(x, rng.uniform(shape, draw=draw), rng.stream("gauss").normal(shape, draw=draw))

    def crossed(self, z: Tensor, generation: int) -> Tensor:
        """Return images that have each pixel of one of two of z, some of their entries mirrored at the image."""
        rng, draw = self._many(POOL, f"crossed{generation}"), self._draws(POOL)
        one, other = rng.stream("parents").integers((2,), len(z), draw).unbind(1)
        mask = rng.stream("pixels").uniform((1, *z.shape[2:]), draw=draw) < 0.5
        child = torch.where(mask, z[one], z[other])
        spoiled = rng.stream("spoiled").uniform(tuple(z.shape[1:]), draw=draw) < SPOILED
        threat, x = self._around(POOL)
        return threat.project(torch.where(spoiled, 2 * x - child, child), x)

    def descended(self, z: Tensor, target: Tensor, steps: int, size: float) -> tuple[Tensor, Tensor]:
        """Return the lowest images on the way down from z [D, C, H, W] for functions target [D], and their values [D].

        Args:
            size: of the first step, in radii.
        """
        threat, x = self._around(len(z))
        rows, reach, average = self.functions[target], threat.budget(x), torch.zeros_like(z)
        best, lowest = z, torch.full_like(z[:, 0, 0, 0], torch.inf)
        for step in range(steps + 1):
            with torch.enable_grad():
                leaf = z.detach().requires_grad_()
                value = (self.graph.forward(leaf) * rows).sum(1)
                (gradient,) = torch.autograd.grad(value.sum(), leaf)
            better = value.detach() < lowest
            lowest = torch.where(better, value.detach(), lowest)
            best = torch.where(better[:, None, None, None], z, best)
            if step == steps or self.deadline.over:
                break
            average = MOMENTUM * average + gradient / gradient.abs().sum((1, 2, 3), keepdim=True).clamp_min(1e-30)
            z = threat.project(z - size * reach * (1 - step / steps) ** 1.5 * threat.steepest(average), x)
        return best, lowest

    def _around(self, count: int) -> tuple[Threat, Tensor]:
        same = torch.zeros(count, dtype=torch.int64, device=self.x.device)
        return self.threat.select(same) if self.threat.factors is not None else self.threat, self.x[same]

    def _many(self, count: int, name: str) -> Rng:
        return self.rng.stream("descents").stream(name).select(torch.zeros_like(self._draws(count)))

    def _draws(self, count: int) -> Tensor:
        return torch.arange(count, device=self.x.device)

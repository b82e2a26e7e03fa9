"""How often attacks on randomized ensembles find the worst case of linear members, which an angular sweep knows.

    python -m benchmarks.linear_ensembles [--problems 500]

Members are random lines in the plane that are right at the image, all with the same probability; eps is 1.
"""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from gauntlet.attacks.randomized_ensemble.arc import ARC
from gauntlet.attacks.randomized_ensemble.expected_pgd import ExpectedPGD
from gauntlet.attacks.randomized_ensemble.lattice_climber import LatticeClimber
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.mixture import mixed
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Forward, Head

out = sys.stdout.write

SMALL = 1e-3

PAPER: dict[str, Any] = {"order": "probability", "step_size": 1.0}

ATTACKS: dict[str, Any] = {
    "released, 1 round": ARC(steps=1, variant="released", **PAPER),
    "released, 5 rounds": ARC(steps=5, variant="released", **PAPER),
    "recentred, 1 round": ARC(steps=1, variant="recentred", **PAPER),
    "recentred, 5 rounds": ARC(steps=5, variant="recentred", **PAPER),
    "exact, 1 round": ARC(steps=1, overshoot=SMALL, **PAPER),
    "exact, 5 rounds": ARC(steps=5, overshoot=SMALL, **PAPER),
    "exact, 5 rounds, random order": ARC(steps=5, step_size=1.0, overshoot=SMALL),
    "the same from 3 starts": ARC(steps=5, step_size=1.0, overshoot=SMALL, restarts=3),
    "lattice climber": LatticeClimber(),
    "PGD on the expected error": ExpectedPGD(),
    "PGD on the expected softmax": ExpectedPGD(loss="softmax"),
}


@dataclass(frozen=True)
class Problems:
    """way [M, N, 2] and away [M, N]: member m is wrong on problem n where way . z < -away."""

    norm: str
    way: Tensor
    away: Tensor

    @classmethod
    def drawn(cls, members: int, norm: str, count: int) -> "Problems":
        draw = torch.Generator().manual_seed(members)
        way = torch.randn(members, count, 2, generator=draw, dtype=torch.float64)
        way = way / torch.linalg.vector_norm(way, 2 if norm == "l2" else 1, dim=2, keepdim=True)
        return cls(norm, way, 1.5 * torch.rand(members, count, generator=draw, dtype=torch.float64))

    def forward(self, member: int) -> Forward:
        def logits(z: Tensor, rng: Rng) -> Tensor:
            margin = (self.way[member][rng.ids] * z.flatten(1)).sum(1) + self.away[member][rng.ids]
            return torch.stack([margin, -margin], 1) / 2

        return logits

    def worst(self) -> Tensor:
        """Share of the members that fall at once, [N]. The whole budget is never too much: all are right at zero."""
        angle = torch.linspace(0, 2 * math.pi, 20001, dtype=torch.float64)
        way = torch.stack([angle.cos(), angle.sin()], 1)
        way = way if self.norm == "l2" else way / way.abs().amax(1, keepdim=True)
        found = [((w @ way.T + a[:, None]) < 0).sum(0).max() for w, a in zip(*self._each(), strict=True)]
        return torch.stack(found).double() / len(self.way)

    def _each(self) -> tuple[Tensor, Tensor]:
        return self.way.transpose(0, 1), self.away.T

    def reached(self, attack: Callable[..., Tensor]) -> Tensor:
        """The same by an attack."""
        count, chance = self.away.shape[1], 1 / len(self.way)
        heads = tuple(Head(f"m{m}", self.forward(m), weight=chance) for m in range(len(self.way)))
        ids, y = torch.arange(count), torch.zeros(count, dtype=torch.int64)
        door = CountedHead(heads[0], heads[0].forward, Counts.of(ids))
        x, threat = torch.zeros(count, 1, 1, 2, dtype=torch.float64), Threat(self.norm, 1.0, low=-9, high=9)
        z = attack(mixed(door, heads, {}), x, y, threat=threat, rng=Rng(0, ids))
        assert bool(threat.contains(z, x).all())
        return torch.stack([head.forward(z, Rng(0, ids)).argmax(1) for head in heads]).double().mean(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [Problems.drawn(members, norm, options.problems) for norm in ("l2", "linf") for members in (2, 3, 5)]
    worst = [kind.worst() for kind in kinds]
    out(f"| attack | {' | '.join(f'{kind.norm}, {len(kind.way)}' for kind in kinds)} |\n{(len(kinds) + 1) * '|---'}|\n")
    for name, attack in ATTACKS.items():
        shares = [float((k.reached(attack) >= w - 1e-9).double().mean()) for k, w in zip(kinds, worst, strict=True)]
        out(f"| {name} | {' | '.join(f'{100 * share:.0f}' for share in shares)} |\n")


if __name__ == "__main__":
    main()

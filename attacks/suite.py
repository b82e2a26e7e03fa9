"""Attacks one after the other, each on the survivors of the ones before."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.threat_model.access import LEVELS, Handle, level_of, narrowed
from gauntlet.threat_model.attack import traits_of
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class Suite:
    """A suite such as AutoAttack (Croce and Hein 2020, arXiv 2003.01690): stages on survivors.

    In an evaluation each stage runs on every head and has records of its own; called as an attack, it runs its stages
    on the given head.

    Args:
        stages: name -> attack, in the order in which they run.
        by_norm: norm -> name of a stage -> its field -> the value that it has under that norm instead.

    Raises:
        UserError: no stage, stages that have no norm in common, or a norm, stage, field or value that does not exist.
    """

    stages: dict[str, Any] = field(default_factory=dict)
    by_norm: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("attack.stages is empty; name at least one attack")
        if not self.norms:
            raise UserError("the attacks of attack.stages have no norm in common")
        for norm, changes in self.by_norm.items():
            _known(f"attack.by_norm.{norm}", norm, Threat.NORMS)
            for name, values in changes.items():
                _known(f"attack.by_norm.{norm}.{name}", name, self.stages)
                _check(f"attack.by_norm.{norm}.{name}", self.stages[name], values)
            self.under(norm)

    def under(self, norm: str) -> dict[str, Any]:
        """Return the stages as they run under a threat of that norm."""
        changes = self.by_norm.get(norm, {})
        return {n: replace(attack, **changes[n]) if n in changes else attack for n, attack in self.stages.items()}

    @property
    def needs(self) -> str:
        """Return the access that the most demanding stage needs."""
        return max((level_of(attack) for attack in self.stages.values()), key=LEVELS.index)

    @property
    def norms(self) -> tuple[str, ...]:
        """Return the norms for which every stage is defined."""
        return tuple(n for n in Threat.NORMS if all(n in traits_of(attack).norms for attack in self.stages.values()))

    @property
    def unbounded(self) -> bool:
        """Return whether every stage can do without a finite eps."""
        return all(traits_of(attack).unbounded for attack in self.stages.values())

    def __call__(self, head: Handle, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        best = x.clone()
        index = torch.arange(len(x), device=x.device)
        for name, attack in self.under(threat.norm).items():
            if not len(index):
                break
            below = rng.select(index).stream(name)
            z = attack(narrowed(head, level_of(attack)), x[index], y[index], threat=threat.select(index), rng=below)
            best[index] = z
            fooled = narrowed(head, "decision").broken(z, y[index], below.stream("end"))
            index = index[~fooled]
        return best


def _known(path: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise UserError(f"{path} is unknown; there are {', '.join(names)}")


def _check(path: str, attack: Any, values: dict[str, Any]) -> None:
    """Refuse fields that the attack does not have, and values of another kind than those that they replace."""
    present = {f.name: getattr(attack, f.name) for f in fields(attack)}
    for name, value in values.items():
        _known(f"{path}.{name}", name, present)
        wanted = type(present[name])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UserError(f"{path}.{name}={value} must be of the kind of {present[name]}")

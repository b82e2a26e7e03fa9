"""Surrogates: the models that a transfer attack crafts on, in place of the target.

A surrogate is configured like the target, with a defense, a model and a checkpoint of its own. An attack sees it
through a head on which nothing ever counts as broken, since only the target could tell; so no attack stops early.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.evaluation.deployment import Deployed
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.passes import HostValues
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.targeted import ExchangedHead, TargetedHead
from gauntlet.threat_model.victim import Head

OWN = ("model", "checkpoint", "checkpoint_key")
"""Keys of the root of which a surrogate may have its own."""

ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Surrogate:
    """A model to craft on, under the name that the command line gives it."""

    name: str
    model: Deployed


@dataclass(frozen=True)
class SurrogateHead(CountedHead):
    """A surrogate as an attack sees it."""

    answers: ClassVar[bool] = False

    @torch.no_grad()
    def broken(
        self, z: Tensor, logits: Tensor, y: Tensor, rng: Rng, plain: bool = False, margin: Tensor | None = None
    ) -> Tensor:
        """Return nothing, bool [B]: what fools a surrogate need not fool the target. Costs no pass."""
        return torch.zeros(len(z), dtype=torch.bool, device=z.device)

    def fallen(
        self, z: Tensor, y: Tensor, rng: Rng, margin: Tensor, *columns: Tensor, plain: bool = False
    ) -> tuple[HostValues, ...]:
        """Return nothing, bool [B], and the columns; see `broken`."""
        there, *others = self.passes.read(margin, *columns)
        return np.zeros(len(there), dtype=bool), there, *others


@dataclass(frozen=True)
class ExchangedSurrogateHead(SurrogateHead, ExchangedHead):
    """A surrogate as a loss of a target is computed on it."""


@dataclass(frozen=True)
class TargetedSurrogateHead(SurrogateHead, TargetedHead):
    """A surrogate of which an attack asks for the target of each sample."""

    @property
    def members(self) -> tuple[CountedHead, ...]:
        """Return the surrogate for attacks that weigh gradients by their losses, which are those of the target."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return (ExchangedSurrogateHead(**values),)


@dataclass(frozen=True)
class EnsembleHead(SurrogateHead):
    """Several surrogates at once. Its own logits are the mean of theirs; an attack may also use each of `members`."""

    together: tuple[SurrogateHead, ...] = ()

    @property
    def members(self) -> tuple[CountedHead, ...]:
        return self.together

    def scores(self, z: Tensor, rng: Rng) -> Tensor:
        """Return the mean logits without a gradient [B, K]."""
        return torch.stack([head.scores(z, rng.stream(head.head.name)) for head in self.together]).mean(0)

    def gradient(
        self, z: Tensor, cotangent: Callable[[Tensor], Tensor], rng: Rng, view: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Return the mean logits [B, K] and the pulled-back cotangent of them."""
        logits, pull = self.linearize(z, rng, view)
        return logits, pull(cotangent(logits))

    def pulled(
        self, z: Tensor, cotangent: Callable[[Tensor], Tensor], rng: Rng, view: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `gradient` does, of which nothing is doubtful."""
        return *self.gradient(z, cotangent, rng, view), z.new_ones(len(z))

    def linearize(self, z: Tensor, rng: Rng, view: Any = None) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the mean logits [B, K], and the map that pulls a cotangent of them back to z."""
        parts = [head.linearize(z, rng.stream(head.head.name), view) for head in self.together]
        share = 1 / len(parts)

        def pull(cotangent: Tensor) -> Tensor:
            return torch.stack([back(cotangent * share) for _, back in parts]).sum(0)

        return torch.stack([logits for logits, _ in parts]).mean(0), pull


def head_of(
    surrogates: Sequence[Surrogate],
    counts: Counts,
    dtype: torch.dtype | None = None,
    batch_size: int | None = None,
    aims: tuple[Tensor, Tensor] | None = None,
) -> SurrogateHead:
    """Return the head for an attack on these surrogates.

    Args:
        counts: where passes are booked, those of every surrogate.
        dtype: reduced precision of the gradient passes.
        batch_size: the most samples of a pass.
        aims: labels and targets int64 [B] of the samples of `counts`, of a targeted attack.
    """
    heads: list[SurrogateHead] = []
    for surrogate in surrogates:
        victim, fused = surrogate.model.victim, surrogate.model.fused
        view = Head(surrogate.name, victim.predict, exact=True, draws=victim.draws)
        fast = fused.predict if fused else None
        if aims is None:
            heads.append(SurrogateHead(view, victim.predict, counts, fast, dtype, batch_size))
            continue
        kind = TargetedSurrogateHead if len(surrogates) == 1 else ExchangedSurrogateHead
        heads.append(kind(view, victim.predict, counts, fast, dtype, batch_size, labels=aims[0], targets=aims[1]))
    if len(heads) == 1:
        return heads[0]

    def mean(z: Tensor, rng: Rng) -> Tensor:
        return torch.stack([head.head.forward(z, rng.stream(head.head.name)) for head in heads]).mean(0)

    return EnsembleHead(Head(ENSEMBLE, mean), mean, counts, None, dtype, batch_size, together=tuple(heads))


def owned(cfg: DictConfig) -> DictConfig:
    """Return the configuration with the surrogates' own models and checkpoints where their defenses name those of the
    root.

    A surrogate without a model of its own has that of the root. Without a checkpoint of its own it has none: the
    checkpoint of the root is the target's.

    Args:
        cfg: as composed by Hydra.

    Raises:
        UserError: a surrogate has an unfit name, or is no choice of a defense.
    """
    nodes: Any = OmegaConf.to_container(cfg, resolve=False).get("surrogates") or {}  # type: ignore[union-attr]
    if not isinstance(nodes, dict):
        raise UserError("surrogates must have names; write +defense@surrogates.NAME=none")
    for name, node in nodes.items():
        if not re.fullmatch(r"[A-Za-z]\w*", str(name)) or name in (ENSEMBLE, "true", "clean"):
            raise UserError(f"surrogates.{name}: the name must be a plain word, other than ensemble, true and clean")
        if not isinstance(node, dict) or "_target_" not in node:
            raise UserError(f"surrogates.{name} is no defense; write +defense@surrogates.{name}=none")
    made = cfg.copy()
    OmegaConf.set_struct(made, False)
    made.surrogates = {name: _owned(nodes[name]) for name in sorted(nodes)}
    return made


def _owned(node: dict[str, Any]) -> Any:
    fields = {key: value for key, value in node.items() if key not in OWN}
    own = {"${checkpoint}": node.get("checkpoint"), "${checkpoint_key}": node.get("checkpoint_key")}
    return _replaced(fields, {"${model}": node.get("model", "${model}"), **own})


def _replaced(value: Any, by: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(item, by) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, by) for item in value]
    return by[value] if isinstance(value, str) and value in by else value

"""Candidates from an adversarial set: the attack of every transfer run, and of sets that were made elsewhere."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gauntlet.data.dataset import Split
from gauntlet.errors import UserError
from gauntlet.evidence.adversarial_set import AdversarialSet, Lookup
from gauntlet.threat_model.access import TRANSFER, CandidatesOnly
from gauntlet.threat_model.attack import stages_of
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class Stored:
    """Looks candidates up by sample. The target gives nothing but its verdict, as in the threat model of PubDef
    (Sitawarin et al. 2024, arXiv 2310.17645).

    Args:
        path: folder of the set.

    Raises:
        UserError: no path; on the first call: the set lacks a sample, or has another image or label for it.
    """

    needs: ClassVar[str] = TRANSFER
    norms: ClassVar[tuple[str, ...]] = (*Threat.NORMS, Threat.PATCH)
    coverage: ClassVar[str] = "correct"

    path: str | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise UserError(
                "attack.path is empty; give the folder of an adversarial set: attack=stored attack.path=DIR"
            )

    @cached_property
    def set(self) -> AdversarialSet:
        return AdversarialSet(Path(str(self.path)))

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self.set)

    @property
    def source(self) -> str:
        """Return the name of what the candidates were crafted on; "ensemble" for several."""
        return source_name(list(self.set.sources))

    def fit(self, threat: Threat, digest: str) -> None:
        """Refuse a set of another threat or of other data. digest: of the data to score."""
        crafted_for, mine = self.set.description["threat"], threat_key(threat)
        if crafted_for != mine:
            raise UserError(
                f"{self.path} was crafted for {_words(crafted_for)}, this run is about {_words(mine)}; they must agree"
            )
        if self.set.description["data"]["digest"] != digest:
            raise UserError(f"{self.path} was crafted from other data than this run's; choose its dataset")

    def __call__(self, head: CandidatesOnly, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return the stored candidates z of the shape of x [B, C, H, W]; what they cost is booked."""
        found = self._lookup.find(rng.ids.cpu().numpy())
        mine = x.detach().float().cpu().numpy()
        if len(mine) and found["x"].shape != mine.shape:
            raise UserError(
                f"{self.path} holds images of {list(found['x'].shape[1:])}, the data {list(mine.shape[1:])}"
            )
        other = (found["x"] != mine).reshape(len(mine), -1).any(1) | (found["label"] != y.cpu().numpy())
        if len(mine) and other.any():
            sample = int(rng.ids[int(np.flatnonzero(other)[0])])
            raise UserError(
                f"{self.path} has another image or label for sample {sample} than the data set; craft it anew"
            )
        head.book(rng.ids, **{name: found[name] for name in CandidatesOnly.COLUMNS})
        return torch.from_numpy(found["z"].reshape(mine.shape).copy()).to(x)


@dataclass(frozen=True)
class PrecomputedTransfer:
    """The stages of a transfer run, `<attack>/<source>`, each with a set of its own. Made by the program."""

    needs: ClassVar[str] = TRANSFER
    norms: ClassVar[tuple[str, ...]] = Stored.norms
    coverage: ClassVar[str] = "correct"

    stages: dict[str, Stored]
    identities: dict[str, str]  # stage -> of its set
    sources: dict[str, dict[str, Any]]  # stage -> name -> victim, weights and defense of what it was crafted on

    def to_record(self) -> dict[str, dict[str, Any]]:
        """Return what a manifest says of each stage."""
        return {stage: {"set": self.identities[stage], "sources": self.sources[stage]} for stage in self.stages}


def stored_suite(name: str, attack: Any, threat: Threat, split: Split) -> PrecomputedTransfer | None:
    """Return the stages of an attack, or suite, from sets made elsewhere; None where the attack is another.

    Raises:
        UserError: a suite mixes sets with attacks, or a set is damaged, of another threat or of other data.
    """
    suite = stages_of(name, attack)
    kinds = {isinstance(part, Stored) for part in suite.values()}
    if kinds == {True}:
        for part in suite.values():
            part.fit(threat, split.digest())
        stages = {f"{each}/{part.source}": part for each, part in suite.items()}
        return PrecomputedTransfer(
            stages,
            {stage: part.set.digest() for stage, part in stages.items()},
            {stage: part.set.sources for stage, part in stages.items()},
        )
    if True in kinds:
        raise UserError("attack.stages mixes stored sets with attacks on the target; make them two runs")
    return None


def source_name(names: list[str]) -> str:
    """Return how a stage calls what it was crafted on."""
    return names[0] if len(names) == 1 else "ensemble"


def threat_key(threat: Threat) -> list[Any]:
    """Return what of a threat crafting depends on, as plain values."""
    return [threat.norm, threat.label, threat.low, threat.high]


def _words(crafted_for: list[Any]) -> str:
    return f"{crafted_for[1]} in [{crafted_for[2]}, {crafted_for[3]}]"

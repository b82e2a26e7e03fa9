"""What a verifier of somebody else's claims to have proven: recorded with its origin, and never counted as proven."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from gauntlet.certification.certifier import Certificates, Kind, Work
from gauntlet.certification.exchange.verdicts import question_key
from gauntlet.errors import UserError
from gauntlet.evidence.digest import digest_of
from gauntlet.system.file_reader import read_json
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim

CLAIMS = "_claims"
"""Folder of all claims below the runs folder."""


@dataclass(frozen=True)
class Claimed:
    """Repeats the verdicts of another verifier, which `gauntlet import results.csv --for RUN` stored.

    The radius is the eps of the threat where that verifier says that nothing in its box has another class, else 0.
    Nothing is proven here: the kind is "claimed", the confidence 0, and no table, bracket or verification counts it.

    Args:
        path: file of the claims.

    Raises:
        UserError: no path, or it holds no claims.
    """

    kind: ClassVar[Kind] = "claimed"
    sees_label: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = ("linf",)
    whole: ClassVar[bool] = False

    path: str | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise UserError("certifier.path is empty; claims come from: gauntlet import results.csv --for RUN")

    @cached_property
    def claims(self) -> dict[str, Any]:
        """Return `origin`, `question` and `proven`, the ids of the samples that are claimed to be.

        Raises:
            UserError: the file is not there, or damaged.
        """
        try:
            found = read_json(Path(str(self.path)), hint="import the results again")
        except FileNotFoundError:
            raise UserError(f"there is no file {self.path}; import the results again") from None
        if not isinstance(found, dict) or not {"origin", "question", "proven"} <= found.keys():
            raise UserError(f"{self.path} holds no claims; import the results again")
        return found

    @property
    def identity(self) -> str:
        """Return a hash of the claims, whatever their place."""
        return digest_of(self.claims)

    @property
    def confidence(self) -> float:
        return 0.0

    @property
    def origin(self) -> str:
        """Return who claims it, in words."""
        return str(self.claims["origin"])

    def fit(self, manifest: Mapping[str, Any]) -> None:
        """Refuse claims about another model, data set or threat than that of a run."""
        if self.claims["question"] != question_key(manifest):
            raise UserError(f"{self.path} is about another model, data set or threat; import results for this run")

    def check(self, victim: Victim, threat: Threat) -> None:
        if victim.randomized:
            raise UserError("claims are about deterministic networks, and this defense draws random numbers")

    def __call__(
        self, victim: Victim, x: Tensor, y: Tensor | None, *, threat: Threat, rng: Rng, work: Work
    ) -> Certificates:
        predict = victim.predict(x, rng).argmax(1)
        proven = torch.isin(rng.ids.cpu(), torch.tensor(self.claims["proven"], dtype=torch.int64))
        radius = torch.where(proven, threat.budget(x.double()).flatten().cpu(), 0.0)
        work.advance(len(x), len(x))
        return Certificates.proven(predict, radius, torch.full((len(x),), torch.nan), torch.ones(len(x)))


def claims_file(folder: Path, claims: Mapping[str, Any]) -> tuple[Path, bytes]:
    """Return where claims are stored below the folder of all claims, and as what bytes."""
    return folder / f"{digest_of(claims)}.json", (json.dumps(claims, indent=1, sort_keys=True) + "\n").encode()

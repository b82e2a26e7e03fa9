"""Find the probabilities of a randomized ensemble: `gauntlet calibrate ensemble [OVERRIDE ...]`.

ARC and the lattice climber tell which members an attacker makes wrong at once; none of the images may be one that is
evaluated.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gauntlet.attacks.randomized_ensemble.arc import ARC
from gauntlet.attacks.randomized_ensemble.lattice_climber import LatticeClimber
from gauntlet.commands.calibration import Setting, answer, batches
from gauntlet.data.dataset import Batch, Split
from gauntlet.defenses.optimal_sampling import Best, Floats, linear_programme, risk, subgradient
from gauntlet.defenses.randomized_ensemble import RandomizedEnsemble
from gauntlet.errors import UserError
from gauntlet.metrics.ensemble_bounds import least, risks
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.decision import misclassified
from gauntlet.threat_model.mixture import MEMBERS, bits, mixed
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, plain

NEAR = 1e-3
"""Difference of risks below which another round of attacks at the best probabilities is not worth its price."""


class EnsembleCalibration(NamedTuple):
    """What the search found."""

    names: list[str]
    images: int
    alone: Floats  # risk of each member
    equal: float  # risk at equal probabilities, with all that was found
    steps: Best  # by the sub-gradient; its risk is that with all that was found
    exact: Best  # by the linear program
    rounds: int  # attacks at the best probabilities so far


@dataclass
class Sets:
    """For each image the sets of members that were made wrong at once, as bits; grows with every attack."""

    models: Mapping[str, nn.Module]
    parts: list[Batch]
    threat: Threat
    steps: int

    def __post_init__(self) -> None:
        self.attacks = 0
        self.found: list[set[int]] = [set() for part in self.parts for _ in part.ids]
        self._note([self._wrong(part.x, part.y) for part in self.parts])

    def attack(self, chances: Floats) -> NDArray[np.bool_]:
        """Return who is wrong on the worse candidate of two attacks at these probabilities [M], bool [images, M]."""
        self.attacks += 1
        heads = tuple(
            Head(name, plain(model), weight=float(chance))
            for (name, model), chance in zip(self.models.items(), chances, strict=True)
            if chance > 0  # a member that is never drawn is not worth a step
        )
        each = [torch.cat(self._candidates(attack, heads), 1) for attack in (ARC(steps=self.steps), LatticeClimber())]
        weights = torch.as_tensor(chances)[:, None]
        errors = [(weights * wrong).sum(0) for wrong in each]
        worse: NDArray[np.bool_] = torch.where(errors[1] > errors[0], each[1], each[0]).T.numpy()
        return worse

    def _candidates(self, attack: ARC | LatticeClimber, heads: tuple[Head, ...]) -> list[Tensor]:
        """Return which members the candidates of an attack make wrong, bool [M, B] for each batch."""
        wrong = []
        for ids, x, y in self.parts:
            counted = CountedHead(Head(MEMBERS, heads[0].forward), heads[0].forward, Counts.of(ids))
            rng = Rng(0, ids, f"sampling/{self.attacks}")
            z = attack(mixed(counted, heads, {}), x, y, threat=self.threat, rng=rng)
            wrong.append(self._wrong(z, y))
        self._note(wrong)
        return wrong

    @torch.no_grad()
    def _wrong(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([misclassified(model(x), y) for model in self.models.values()])

    def _note(self, wrong: list[Tensor]) -> None:
        for sets, mask in zip(self.found, bits(torch.cat(wrong, 1)).tolist(), strict=True):
            sets.add(mask)


def calibrate(
    models: Mapping[str, nn.Module], split: Split, threat: Threat, samples: int, steps: int, rounds: int
) -> EnsembleCalibration:
    """Attack at each member alone, along the sub-gradient, and at the solutions of the program until they hold."""
    count = len(models)
    sets = Sets(models, list(batches(split, samples)), threat, steps)
    for number in range(count):
        sets.attack(np.eye(count)[number])
    walked = subgradient(sets.attack, count, rounds)
    best, again = linear_programme(sets.found, count), 0
    while again < rounds:
        again += 1
        attained = float((sets.attack(best.chances) @ best.chances).mean())
        best = linear_programme(sets.found, count)
        if attained <= best.risk + NEAR and risk(sets.found, best.chances) <= best.risk + NEAR:
            break
    united = [int(np.bitwise_or.reduce(list(each))) for each in sets.found]
    equal = np.full(count, 1 / count)
    return EnsembleCalibration(
        list(models), len(sets.found), risks(united, count), risk(sets.found, equal),
        Best(walked.chances, risk(sets.found, walked.chances)), best, again,
    )  # fmt: skip


def lines(found: EnsembleCalibration) -> list[str]:
    """Return the report: the members alone, three choices of probabilities, and the best as an option of run.py."""
    low, high = least(found.alone)
    alone = ", ".join(f"{name} {1 - r:.2%}" for name, r in zip(found.names, found.alone, strict=True))
    rows = {
        "equal": (np.full(len(found.names), 1 / len(found.names)), found.equal),
        "sub-gradient": found.steps,
        "program": found.exact,
    }
    best = ",".join(f"{chance:.6g}" for chance in _rounded(found.exact.chances))
    return [
        f"{found.images} images, expected accuracy by the sets that were found on them (fitted here: no result)",
        f"members alone    {alone}",
        f"bounds           {1 - high:.2%} to {1 - low:.2%} with the best probabilities",
        *(
            f"{name:<17}{1 - value:.2%}   {', '.join(f'{chance:.3f}' for chance in chances)}"
            for name, (chances, value) in rows.items()
        ),
        f"the program was solved anew after each of {found.rounds} attacks at its solution",
        f'"defense.probabilities=[{best}]"',
    ]


def _rounded(chances: Floats) -> Floats:
    """Round to six digits, still of sum one."""
    kept = np.round(chances, 6)
    kept[int(kept.argmax())] += 1 - kept.sum()
    return kept


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="gauntlet calibrate ensemble", description=__doc__)
    parser.add_argument("--part", default="validation", help="of the data set: validation or train")
    parser.add_argument("--samples", type=int, default=1000, help="the first so many images")
    parser.add_argument("--steps", type=int, default=10, help="rounds of ARC")
    parser.add_argument("--rounds", type=int, default=10, help="of the sub-gradient, and at most of the program")
    parser.add_argument(
        "overrides",
        nargs="*",
        help="options of run.py: defense (default: randomized_ensemble), data set, model, threat",
    )
    options = parser.parse_args(arguments)
    return answer(lambda: lines(_calibrated(options)))


def _calibrated(options: argparse.Namespace) -> EnsembleCalibration:
    for name in ("samples", "steps", "rounds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)} must be at least 1")
    setting = Setting.of("randomized_ensemble", options.overrides)
    defense, threat = setting.defense, setting.threat
    if threat.norm not in ARC.norms or threat.unbounded:
        raise UserError(f"threat={threat.norm} with eps={threat.eps}: ARC needs linf or l2 and a finite eps")
    if not isinstance(defense, RandomizedEnsemble):
        raise UserError(f"defense={type(defense).__name__} draws no members; take randomized_ensemble, barre or bat")
    split, models = setting.images(options.part, options.samples), setting.models()
    chosen = {name: models[name] for name in defense.members}
    return calibrate(chosen, split, threat, options.samples, options.steps, options.rounds)

"""Red flags: signs that a robustness number says more about the evaluation than about the model.

Some checks look at the first images; the others look at the evidence. A flag is a result: it goes into `run.json` and
onto the board. The ideas follow the checks that come with AutoAttack (Croce and Hein 2020, arXiv
2003.01690) and the list of Carlini et al. 2019, arXiv 1902.06705.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from attacks.fgsm import FGSM
from attacks.pgd import PGD
from harness.access import GRADIENT
from harness.data.contract import Batch
from harness.evaluate import Attack, Evaluation
from harness.meter import Counts, MeteredHead
from harness.rng import Rng
from harness.tally import Tally
from harness.threat import Threat

log = logging.getLogger(__name__)

PROBE = 64
"""Images that the checks of a victim look at."""


@dataclass(frozen=True)
class Flag:
    """One red flag: a stable name, and what was seen."""

    name: str
    detail: str

    def as_dict(self) -> dict[str, str]:
        return {"name": self.name, "detail": self.detail}


def of_victim(run: Evaluation, batch: Batch, standing: set[int]) -> list[Flag]:
    """Flags of the victim itself, from at most `PROBE` images. Costs about 60 forward and backward passes of each.

    standing: ids of the samples that the attack on the true head leaves standing.
    """
    checks: tuple[Callable[[_Probe], Flag | None], ...] = (
        _training_mode, _probabilities, _randomness, _batch_mates, _unlimited, _one_step
    )  # fmt: skip
    if run.given != GRADIENT:  # nothing that only gradients suffer from, and no attack beyond what the attacker has
        checks = (_training_mode, _randomness, _batch_mates)
    probe, flags = _Probe(run, batch, standing), []
    for check in checks:
        try:
            flag = check(probe)
        except Exception as cause:  # the evidence is there; a check that fails must not hide it
            log.exception("a check of the victim failed")
            flag = Flag("check-failed", f"{check.__name__.strip('_')}: {type(cause).__name__}: {cause}".splitlines()[0])
        if flag is not None:
            flags.append(flag)
    return flags


def from_evidence(total: Tally) -> list[Flag]:
    """Flags that the records of a run show."""
    flags = []
    for stage, (attacked, zero, bad) in total.gradients.items():
        if zero > 0.01 * attacked:
            flags.append(Flag("zero-gradients", f"{stage}: {zero} of {attacked} samples had an input gradient of zero"))
        if bad:
            flags.append(Flag("bad-gradients", f"{stage}: {bad} of {attacked} samples had NaN or infinite gradients"))
    return [*flags, *_surprises(total)]


def _surprises(total: Tally) -> Iterator[Flag]:
    """Samples that only a weaker kind of stage broke: a sign that the gradients of the stages before are hidden."""
    stages = [stage for stage in total.standing if "/" in stage]
    few = max(0.002 * total.samples, 2)
    for name in dict.fromkeys(stage.split("/")[0] for stage in stages):
        mine = [stage for stage in stages if stage.split("/")[0] == name]
        behind = total.standing[mine[0]] - total.standing[mine[-1]]
        if behind > few:
            yield Flag("masked-gradients", f"{name}: heads other than the true one broke {behind} more samples")
    for before, stage in pairwise(stages):
        found = total.standing[before] - total.standing[stage]
        white = any(total.cost[other]["backwards"] for other in stages[: stages.index(stage)])
        if white and not total.cost[stage]["backwards"] and found > 0.002 * total.samples:
            yield Flag("black-box-wins", f"{stage}, without gradients, broke {found} samples that gradients did not")


class _Probe:
    """The first images, and the ways in which the checks look at the victim."""

    def __init__(self, run: Evaluation, batch: Batch, standing: set[int]) -> None:
        order = batch.ids.argsort()[:PROBE]
        self.run = run
        self.left = sum(int(sample) in standing for sample in batch.ids[order]) / len(order)
        self.ids, self.x, self.y = (t[order].to(run.device) for t in batch)
        self.scores = self.predict(self.x, self.ids, "probe")

    @torch.no_grad()
    def predict(self, x: Tensor, ids: Tensor, stream: str) -> Tensor:
        return self.run.victim.predict(x, Rng(self.run.seed, ids, stream))

    def accuracy(self, attack: Attack, threat: Threat) -> float:
        """Share of the probe that is right after an attack on the true head."""
        run, right = self.run, self.scores.argmax(1) == self.y
        if not right.any():
            return 0.0
        ids, x, y = self.ids[right], self.x[right], self.y[right]
        fast = run.twin.heads[0].forward if run.twin else None
        head = MeteredHead(run.victim.heads[0], run.victim.predict, Counts.of(ids), fast)
        z = attack(head, x, y, threat=threat, rng=Rng(run.seed, ids, "probe")).detach()
        return float((self.predict(z, ids, "judge").argmax(1) == y).sum()) / len(self.y)


def _training_mode(probe: _Probe) -> Flag | None:
    awake = [type(m).__name__ for top in probe.run.victim.modules for m in top.modules() if m.training]
    return Flag("training-mode", f"{len(awake)} layers are in training mode, first {awake[0]}") if awake else None


def _probabilities(probe: _Probe) -> Flag | None:
    s = probe.scores.double()
    if s.min() > -1e-5 and s.max() < 1 + 1e-5 and (s.sum(1) - 1).abs().max() < 1e-5:
        return Flag(
            "probabilities", "the model returns probabilities where logits are expected: its gradients underflow"
        )
    return None


def _randomness(probe: _Probe) -> Flag | None:
    if probe.run.victim.randomized:
        return None
    change = _relative(probe.predict(probe.x, probe.ids, "again"), probe.scores)
    if change > 1e-4:
        return Flag("undeclared-randomness", f"two predictions of the same images differ by {change:.2g} of their size")
    return None


def _batch_mates(probe: _Probe) -> Flag | None:
    few = min(4, len(probe.ids))
    alone = [probe.predict(probe.x[i : i + 1], probe.ids[i : i + 1], "probe") for i in range(few)]
    change = _relative(torch.cat(alone), probe.scores[:few])
    if change > 1e-4:
        return Flag(
            "batch-dependence", f"scores change by {change:.2g} of their size with the images in the same batch"
        )
    return None


def _unlimited(probe: _Probe) -> Flag | None:
    """With a budget that covers the whole box, no accuracy above chance may remain."""
    size = probe.x[0].numel()
    whole = {"linf": 1.0, "l2": size**0.5, "l1": float(size), "l0": float(size)}[probe.run.threat.norm]
    threat = replace(probe.run.threat, eps=whole * (probe.run.threat.high - probe.run.threat.low))
    left = probe.accuracy(PGD(steps=50, step_size=0.1, loss="margin"), threat)
    if left > 1 / probe.run.classes:
        return Flag(
            "unlimited-budget", f"{left:.0%} still right when every pixel may take any value: gradients are hidden"
        )
    return None


def _one_step(probe: _Probe) -> Flag | None:
    """One step must not beat the attack that is being reported."""
    name, attack = probe.run.attack
    if attack.needs != "gradient" or isinstance(attack, FGSM):
        return None
    one = probe.accuracy(FGSM(), probe.run.threat)
    if one < probe.left - max(0.002, 3 / len(probe.y)):
        return Flag(
            "weaker-beats-stronger", f"fgsm leaves {one:.0%} of the probe right, {name} leaves {probe.left:.0%}"
        )
    return None


def _relative(a: Tensor, b: Tensor) -> float:
    size = b.double().abs().amax(1).clamp_min(1e-12)
    return float(((a.double() - b.double()).abs().amax(1) / size).max())

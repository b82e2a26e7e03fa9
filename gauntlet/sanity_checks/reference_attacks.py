"""Checks that attack the victim with something that everybody knows."""

from dataclasses import replace
from typing import Protocol, runtime_checkable

from gauntlet.attacks.fgsm import FGSM
from gauntlet.attacks.pgd import PGD
from gauntlet.sanity_checks.flag import Flag
from gauntlet.sanity_checks.probe import Probe
from gauntlet.threat_model.attack import leaves, traits_of
from gauntlet.threat_model.threat import Threat


@runtime_checkable
class Targeted(Protocol):
    """An attack that moves to each of so many other classes."""

    targets: int


def unlimited(probe: Probe) -> Flag | None:
    """With a budget that covers the whole box, no accuracy above chance may remain."""
    size, limit = probe.x[0].numel(), probe.run.threat
    whole = {"linf": 1.0, "l2": size**0.5, "l1": float(size), "l0": float(size)}.get(limit.norm, 1.0)
    if limit.norm not in Threat.NORMS:  # of another kind: every pixel is free under linf
        limit = Threat("linf", 1.0, limit.low, limit.high, limit.goal, limit.target)
    threat = replace(limit, eps=whole * (limit.high - limit.low))
    left = probe.accuracy(PGD(steps=50, step_size=0.1, loss="margin"), threat)
    if left > 1 / probe.run.classes:
        return Flag(
            "unlimited-budget", f"{left:.0%} still right when every pixel may take any value: gradients are hidden"
        )
    return None


def one_step(probe: Probe) -> Flag | None:
    """One step must not beat the attack that is being reported, where both have the same goal."""
    name, attack = probe.run.attack
    if probe.run.threat.norm not in traits_of(FGSM()).norms:
        return None
    if probe.run.threat.targeted or traits_of(attack).needs != "gradient" or isinstance(attack, FGSM):
        return None
    one = probe.accuracy(FGSM(), probe.run.threat)
    if one < probe.left - max(0.002, 3 / len(probe.y)):
        return Flag(
            "weaker-beats-stronger", f"fgsm leaves {one:.0%} of the probe right, {name} leaves {probe.left:.0%}"
        )
    return None


def few_classes(probe: Probe) -> Flag | None:
    """No stage moves to more other classes than there are."""
    classes = probe.run.classes
    for name, attack in leaves(*probe.run.attack):
        targets = attack.targets if isinstance(attack, Targeted) else 0
        if isinstance(targets, int) and targets >= classes:
            what = f"{name} with {targets} targets is made for {targets + 1} classes"
            return Flag("few-classes", f"{what}, there are {classes}")
    return None

"""Checks of the victim as a function: what it is made of, and what it depends on."""

import torch

from harness.checks.flag import Flag
from harness.checks.probe import Probe, relative


def training_mode(probe: Probe) -> Flag | None:
    awake = [type(m).__name__ for top in probe.run.victim.modules for m in top.modules() if m.training]
    return Flag("training-mode", f"{len(awake)} layers are in training mode, first {awake[0]}") if awake else None


def probabilities(probe: Probe) -> Flag | None:
    s = probe.scores.double()
    if s.min() > -1e-5 and s.max() < 1 + 1e-5 and (s.sum(1) - 1).abs().max() < 1e-5:
        return Flag(
            "probabilities", "the model returns probabilities where logits are expected: its gradients underflow"
        )
    return None


def randomness(probe: Probe) -> Flag | None:
    if probe.run.victim.randomized:
        return None
    change = relative(probe.predict(probe.x, probe.ids, "again"), probe.scores)
    if change > 1e-4:
        return Flag("undeclared-randomness", f"two predictions of the same images differ by {change:.2g} of their size")
    return None


def batch_mates(probe: Probe) -> Flag | None:
    few = min(4, len(probe.ids))
    alone = [probe.predict(probe.x[i : i + 1], probe.ids[i : i + 1], "probe") for i in range(few)]
    change = relative(torch.cat(alone), probe.scores[:few])
    if change > 1e-4:
        return Flag(
            "batch-dependence", f"scores change by {change:.2g} of their size with the images in the same batch"
        )
    return None

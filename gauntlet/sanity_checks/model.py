"""Checks of the victim as a function: what it is made of, and what it depends on."""

import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from gauntlet.models.declared_normalization import missing_normalization
from gauntlet.models.inner_normalization import contradiction
from gauntlet.sanity_checks.flag import Flag
from gauntlet.sanity_checks.probe import Probe
from gauntlet.system.dispatch_mode import DispatchMode
from gauntlet.threat_model.decision import relative_difference

REDUCED = (torch.float16, torch.bfloat16)


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


def dynamic(probe: Probe) -> Flag | None:
    """A forward neither differentiates nor changes its own weights: it would be another function at every call."""
    few = slice(0, min(2, len(probe.ids)))
    state = [t for top in probe.run.victim.modules for t in (*top.parameters(), *top.buffers())]
    before = [t._version for t in state]
    with _Calls() as calls:
        probe.predict(probe.x[few], probe.ids[few], "probe")
    if calls.seen:
        return Flag(
            "dynamic-forward", f"a prediction calls autograd ({calls.seen}): gradients must go through that loop"
        )
    changed = sum(now._version != then for now, then in zip(state, before, strict=True))
    if changed:
        return Flag("dynamic-forward", f"a prediction changes {changed} weights or buffers of the model in place")
    return None


def reduced_precision(probe: Probe) -> Flag | None:
    """Weights and everything computed from them have at least 32 bits."""
    weights = [
        name for top in probe.run.victim.modules for name, p in top.named_parameters() if p.dtype in REDUCED
    ]  # fmt: skip
    if weights:
        return Flag("reduced-precision", f"{len(weights)} weights have fewer than 32 bits, first {weights[0]}")
    few = slice(0, min(2, len(probe.ids)))
    with _Dtypes() as dtypes:
        probe.predict(probe.x[few], probe.ids[few], "probe")
    if dtypes.seen:
        return Flag("reduced-precision", f"the forward computes in {dtypes.seen}: autocast, or a cast of its own")
    return None


def normalization(probe: Probe) -> Flag | None:
    """A network whose author declares a normalization gets it."""
    _, channels, size, _ = probe.x.shape
    for top in probe.run.victim.modules:

        def run(x: Tensor, top: nn.Module = top) -> Tensor:
            return (
                top(x)
                if probe.run.victim.randomized
                else probe.predict(x, torch.arange(len(x), device=x.device), "probe")
            )

        if lines := missing_normalization(top, run, channels, size):
            return Flag("missing-normalization", lines[0])
        if line := contradiction(top, channels, size):
            return Flag("missing-normalization", line)
    return None


def randomness(probe: Probe) -> Flag | None:
    if probe.run.victim.randomized:
        return None
    change = float(relative_difference(probe.predict(probe.x, probe.ids, "again"), probe.scores).max())
    if change > 1e-4:
        why = f"two predictions of the same images differ by {change:.2g} of their spread"
        return Flag("undeclared-randomness", why)
    return None


def batch_mates(probe: Probe) -> Flag | None:
    few = min(4, len(probe.ids))
    alone = [probe.predict(probe.x[i : i + 1], probe.ids[i : i + 1], "probe") for i in range(few)]
    change = float(relative_difference(torch.cat(alone), probe.scores[:few]).max())
    if change > 1e-4:
        return Flag(
            "batch-dependence", f"scores change by {change:.2g} of their spread with the images in the same batch"
        )
    return None


class _Calls:
    """Notes the name of the first call of autograd in a block; nothing where a profiler is at work already."""

    NAMES = ("grad", "backward", "_make_grads")

    def __init__(self) -> None:
        self.seen = ""

    def __enter__(self) -> "_Calls":
        self.mine = sys.getprofile() is None
        if self.mine:
            sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self.mine:
            sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_name in self.NAMES and frame.f_globals.get("__name__") == "torch.autograd":
            self.seen = self.seen or code.co_name


class _Dtypes(DispatchMode):  # type: ignore[no-untyped-call]
    """Notes the first floating type of fewer than 32 bits that an operation returns in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor) and value.dtype in REDUCED:
                self.seen = self.seen or str(value.dtype).removeprefix("torch.")
        return out

"""Which devices this machine has, and which of them a process takes."""

import logging
import multiprocessing
import re
from functools import cache

import torch

from gauntlet.errors import UserError, reason

KINDS = ("cuda", "xpu", "mps")
"""Kinds of accelerators, in the order in which they are taken."""

ALL = "all"

REFUSED = (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError)
"""What torch raises on a device that is not there, or does not do what is asked of it."""

log = logging.getLogger(__name__)


def count(kind: str) -> int:
    """Return how many devices of a kind there are."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    backend = getattr(torch, kind)
    return int(backend.device_count()) if backend.is_available() else 0


def best() -> torch.device:
    """Return the accelerator of this process, else the CPU; say why where there is one that cannot be used.

    A worker of joblib takes the device of its number, so that the workers of a sweep share them out.
    """
    kind = _best_kind()
    there = count(kind) if kind != "cpu" else 1
    return torch.device(kind, worker_number() % there) if there > 1 and worker_number() else torch.device(kind)


def every() -> list[str]:
    """Return all accelerators of the best kind; the CPU, and one line, where there is none."""
    kind = _best_kind()
    if kind == "cpu":
        _warn("runtime.devices=all finds no accelerator here; using the CPU")
        return ["cpu"]
    return [f"{kind}:{number}" for number in range(count(kind))] if count(kind) > 1 else [kind]


@cache
def _warn(text: str) -> None:
    """Say a line once in each process."""
    log.warning("%s", text)


def checked(name: str, key: str) -> torch.device:
    """Return a device that the user names.

    Args:
        key: of the configuration, for the message.

    Raises:
        UserError: it is not there, or has no float64, in which distances are judged.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" holds no numbers
    except REFUSED:
        raise UserError(f"{key}={name} is not there; use runtime.device=cpu or auto") from None
    if why := _unfit(name):
        raise UserError(f"{key}={name} cannot be used ({why}); use runtime.device=cpu or auto")
    return device


def worker_number() -> int:
    """Return the number of this worker of joblib, from 0; 0 in any other process."""
    found = re.fullmatch(r"LokyProcess-(\d+)", multiprocessing.current_process().name)
    return max(0, int(found[1]) - 1) if found else 0


@cache
def _best_kind() -> str:
    for kind in KINDS:
        if not count(kind):
            continue
        if not (why := _unfit(kind)):
            return kind
        log.warning("there is a device %s, but it cannot be used (%s); using the CPU", kind, why)
    return "cpu"


def _unfit(name: str) -> str:
    """Return why a device cannot judge; empty where it can."""
    try:
        torch.zeros(1, device=name, dtype=torch.float64).item()
    except REFUSED as cause:
        return f"distances are judged in float64, and it says: {reason(cause)}"
    return ""

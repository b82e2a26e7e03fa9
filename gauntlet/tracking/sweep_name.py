"""The name of a sweep: what the user typed for it, so that the same command typed again goes on in the same group."""

import hashlib
import shlex
import sys

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

LONGEST = 128
"""Characters that W&B takes for a group."""


def sweep() -> str | None:
    """Return the name of the sweep that this process carries out; None without one, or in a scheduler's process."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return name(sys.argv[1:])


def name(words: list[str]) -> str | None:
    """Return the name of the sweep of a command line, at most `LONGEST` characters; None if it starts no sweep."""
    flags = {"-m", "--multirun"}
    if flags.isdisjoint(words):
        return None
    text = shlex.join(word for word in words if word not in flags and not word.startswith(("logger", "runs_dir")))
    if len(text) <= LONGEST:
        return text or "sweep"
    return f"{text[: LONGEST - 9]} {hashlib.sha256(text.encode()).hexdigest()[:8]}"

"""Where the jobs of a sweep run: `hydra/launcher=local|joblib|slurm|ray`. Says what is missing. No torch here."""

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from gauntlet.cluster import slurm
from gauntlet.cluster.sweep_overrides import MULTIRUN
from gauntlet.errors import UserError

PLUGINS = {"joblib": "hydra-joblib-launcher", "slurm": "hydra-submitit-launcher", "ray": "hydra-ray-launcher"}
"""Launcher -> the distribution that brings it."""

BATCH, CELLS = "hydra.sweeper.max_batch_size", 1000
"""How many jobs are given to a launcher at once, and the default of that."""


def checked(words: Sequence[str]) -> list[str]:
    """Refuse a launcher that is not here, before Hydra does so in many lines.

    Args:
        words: of the command line.

    Returns:
        The words, and where the largest job array of the site is smaller than ours, that size.

    Raises:
        UserError: its plugin is not installed, the machine has no such scheduler, or the command is no sweep.
    """
    chosen = next((word.partition("=")[2] for word in reversed(words) if word.startswith("hydra/launcher=")), None)
    if chosen is None:
        return list(words)
    if not MULTIRUN & set(words) and not any(word.startswith("-") for word in words):
        raise UserError(f"hydra/launcher={chosen} launches the jobs of a sweep; add -m")
    if chosen in PLUGINS and not _there(f"hydra_plugins.{PLUGINS[chosen].replace('-', '_')}"):
        extra = f"or, in a checkout, pip install -e '.[{chosen}]'"
        raise UserError(f"hydra/launcher={chosen} is not installed; pip install {PLUGINS[chosen]} ({extra})")
    if chosen == "slurm" and shutil.which("sbatch") is None:
        raise UserError("there is no Slurm here (no sbatch on PATH); submit from a login node, or take joblib or local")
    here = str(Path(__file__).resolve().parents[2])  # workers start elsewhere, and find this code too
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if here not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [*filter(None, known), here]
        )  # last: it shadows nothing of the user's
    if chosen in ("local", "joblib", "ray") or any(word.startswith(f"{BATCH}=") for word in words):
        return list(words)
    most = slurm.largest_array()
    return list(words) if most is None or most >= CELLS else [*words, f"{BATCH}={most}"]


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False

"""The small trained networks that come with the program: found by the key of their training, not by their name."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gauntlet.config.user_code import code_digest
from gauntlet.data import Dataset
from gauntlet.evidence.stable_names import to_record
from gauntlet.models import checkpoint

TRAINING_VERSION = 1
"""Raised when the loop, an objective or a default changes what a recipe means; old weights then no longer count."""


def training_key(
    model: Mapping[str, Any], recipe: Mapping[str, Any], seed: int, dataset: Dataset, given: Mapping[str, str]
) -> str:
    """Return the SHA-256 in hex over all that decides about the weights; paths, library versions and machines do not.

    The source of the user's own model or recipe is among it.

    Args:
        model, recipe: resolved configurations.
        given: digest of each trained network that the objective uses.
    """
    data = {part: [dataset.split(part).digest(), dataset.split(part).selection()] for part in ("train", "validation")}
    answer = {"model": model, "recipe": recipe, "seed": seed, "data": data, "given": given, "version": TRAINING_VERSION}
    answer["code"] = code_digest({"model": model, "recipe": recipe}) or None
    text = json.dumps(canonical(to_record(answer)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(value: object) -> object:
    """Return the value in the one form that counts: 1.0 is 1, and an option that is null is as if it were not there.

    So an option that is added later, null where it is off, leaves the old keys as they are.
    """
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


ZOO = Path(__file__).resolve().parent.parent / "models" / "zoo"


def find(key: str, zoo: Path = ZOO) -> Path | None:
    """Return the shipped weights of the training with that key. Reads the heads of the files only."""
    for path in sorted(zoo.glob("*.safetensors")):
        if checkpoint.read_metadata(path).get("key") == key:
            return path
    return None

"""Hold the constants of a normalization that a file brings against those of the model, which its author chose."""

import re
from pathlib import Path

from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.checkpoint_names import CONSTANT, Match
from gauntlet.models.normalize import Normalize

TOLERANCE = 2e-3
"""By which constants may differ: projects round them to three or four digits."""

UNNORMALIZED = "WideResNet"
"""A layout of this kind is mostly trained on pixels as they are."""


def check_constants(path: Path, match: Match, model: nn.Module) -> list[str]:
    """Compare the mean and the std of a file with those of the model; return what the user should know of them.

    Raises:
        UserError: they differ.
    """
    own = next((module for module in model.modules() if isinstance(module, Normalize)), None)
    if own is None:
        return [f"{path.name}: the model takes no {some_names(match)} from it"] if match.constants else []
    ours = {"mean": _values(own.mean), "std": _values(own.std)}
    theirs: dict[str, list[float]] = {}
    for name, value in match.constants.items():
        kind = CONSTANT.fullmatch(name)
        assert kind is not None
        theirs["mean" if kind[1] in ("mean", "mu") else "std"] = _values(value)
    if any(_apart(theirs[key], ours[key]) for key in theirs):
        stated = " ".join(f"model.{key}=[{','.join(f'{v:.4g}' for v in values)}]" for key, values in theirs.items())
        raise UserError(
            f"{path} was trained with another normalization than the model has (in the file: {some_names(match)}); "
            f"add {stated}"
        )
    plain = not any(ours["mean"]) and all(value == 1 for value in ours["std"])
    if not theirs and not plain and match.layout and re.search(UNNORMALIZED, match.layout.name):
        return [
            f"{path.name}: files of this layout without a mean are mostly of networks that take pixels as they are; "
            "if this one is, add model.mean=[0] model.std=[1]"
        ]
    return []


def some_names(match: Match) -> str:
    """Return the names of the constants in a file."""
    return ", ".join(match.constants)


def _values(constants: Tensor) -> list[float]:
    return [float(value) for value in constants.detach().flatten()]


def _apart(one: list[float], other: list[float]) -> bool:
    length = max(len(one), len(other))
    wide = [values * length if len(values) == 1 else values for values in (one, other)]
    return len(wide[0]) != len(wide[1]) or any(abs(a - b) > TOLERANCE for a, b in zip(*wide, strict=True))

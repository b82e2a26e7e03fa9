"""Robustness of image classifiers: attacks, defenses, certificates, and evidence for each image.

from gauntlet import Threat, evaluate
result = evaluate(model, x, y, threat=Threat("linf", "8/255"))
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    # While `python -m` looks for a module of this package, the current folder is first on the path: a `ctypes.py` that
    # lies there would run in place of Python's.
    sys.path.append(sys.path.pop(0))

import gauntlet.system.process  # noqa: F401  (settings that must stand before torch is imported)

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from gauntlet.api.certification import certify
    from gauntlet.api.drop_in import attack
    from gauntlet.api.evaluation import evaluate
    from gauntlet.api.inputs import InputError
    from gauntlet.errors import UserError
    from gauntlet.threat_model.threat import Threat

_PLACES = {
    "InputError": "gauntlet.api.inputs",
    "Threat": "gauntlet.threat_model.threat",
    "UserError": "gauntlet.errors",
    "attack": "gauntlet.api.drop_in",
    "certify": "gauntlet.api.certification",
    "evaluate": "gauntlet.api.evaluation",
}

__all__ = ["InputError", "Threat", "UserError", "attack", "certify", "evaluate"]


def __getattr__(name: str) -> Any:
    """Return a name of the Python interface; torch is imported when one is asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module gauntlet has no attribute {name}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})

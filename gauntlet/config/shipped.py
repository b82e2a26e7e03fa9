"""The folder of the configuration that comes with the program. No torch here."""

from pathlib import Path
from typing import Any

import yaml

CONF = str(Path(__file__).resolve().parent.parent / "conf")
"""Its absolute path. Hydra would take a package too, but then by a name, `conf`, that a user's own folder may have."""


def content(path: Path) -> Any:
    """Return what a YAML of that folder says by itself, not composed with others."""
    return yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))

"""The folder of the configuration that comes with the program. No torch here."""

from pathlib import Path

CONF = str(Path(__file__).resolve().parent.parent / "conf")
"""Its absolute path. Hydra would take a package too, but then by a name, `conf`, that a user's own folder may have."""

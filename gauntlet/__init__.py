"""Robustness of image classifiers: attacks, defenses, certificates, and evidence for each image."""

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    # While `python -m` looks for a module of this package, the current folder is first on the path: a `ctypes.py` that
    # lies there would run in place of Python's.
    sys.path.append(sys.path.pop(0))

import gauntlet.system.process  # noqa: F401  (settings that must stand before torch is imported)

__version__ = "0.2.0.dev0"

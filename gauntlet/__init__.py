"""Robustness of image classifiers: attacks, defenses, certificates, and evidence for each image."""

import gauntlet.system.process  # noqa: F401  (settings that must stand before torch is imported)

__version__ = "0.2.0.dev0"

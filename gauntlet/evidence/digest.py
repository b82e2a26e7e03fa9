"""Digests over the evidence of a run, so that a verdict about it cannot outlive it. Imports no torch."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gauntlet.evidence.run_folder import MOST_BYTES, RunFolder
from gauntlet.system.file_reader import check_regular


def records_digest(run: RunFolder) -> str:
    """Return the sha256 over the bytes of the part files in the order of their chunks, as `sha256:<hex>`.

    A run without records has the digest of no bytes.

    Raises:
        OSError, UserError: a part cannot be read.
    """
    return _digest(run.part_path(chunk) for chunk in sorted(run.present()))


def adversarial_digest(run: RunFolder) -> str:
    """Return the same over the stored adversarial examples of the chunks whose records are there."""
    paths = (run.adversarial_path(chunk) for chunk in sorted(run.present()))
    return _digest(path for path in paths if path.exists())


def manifest_digest(run: RunFolder) -> str:
    """Return the same over `run.json`."""
    return _digest([run.manifest_path])


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        check_regular(path, MOST_BYTES)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def digest_of(value: Any) -> str:
    """Return a short hash of plain values; components in it go by their stable names."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]

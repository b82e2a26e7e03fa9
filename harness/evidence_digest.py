"""One digest over the records of a run, so that a verdict about them cannot outlive them. Imports no torch."""

import hashlib

from harness.records import RunFolder


def records_digest(run: RunFolder) -> str:
    """sha256 over the bytes of the part files in the order of their chunks, as `sha256:<hex>`.

    A run without records has the digest of no bytes.

    Raises:
        OSError: a part cannot be read.
    """
    digest = hashlib.sha256()
    for chunk in sorted(run.present()):
        with run.part_path(chunk).open("rb") as part:
            while block := part.read(1 << 20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"

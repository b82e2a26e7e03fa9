"""A seal on verdicts: who builds a board believes those that were made with the own key, and no others.

A file that says "verified" proves nothing: whoever wrote the records can write it too. So each user has a secret key,
made with the first verdict, and a verdict carries an HMAC-SHA256 by it (RFC 2104). The key never leaves the machine; a
run that came from elsewhere is verified here. Imports no torch.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

from gauntlet.errors import UserError
from gauntlet.evidence.verdict import Verdict
from gauntlet.system.file_reader import read_regular

SIZE = 32
"""Bytes of a key."""


def key_path() -> Path:
    """Return where the key of this user lies: `$XDG_STATE_HOME/gauntlet/verifier.key`."""
    above = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(above) / "gauntlet" / "verifier.key"


def sealed(verdict: Verdict) -> Verdict:
    """Return the verdict with a seal by the user's key, which is made where there is none; unsealed where it cannot."""
    key = _key() or _new_key()
    content = {name: value for name, value in verdict.items() if name != "seal"}
    return cast(Verdict, content if key is None else {**content, "seal": _seal(content, key)})


def is_own(verdict: Mapping[str, object]) -> bool:
    """Return whether a verdict has a seal by the key of this user."""
    key = _key()
    content = {name: value for name, value in verdict.items() if name != "seal"}
    return key is not None and hmac.compare_digest(str(verdict.get("seal", "")).encode(), _seal(content, key).encode())


def _seal(content: Mapping[str, object], key: bytes) -> str:
    return hmac.new(key, json.dumps(content, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _key() -> bytes | None:
    try:
        data = read_regular(key_path(), SIZE)
    except (FileNotFoundError, UserError, RuntimeError):  # no home folder
        return None
    return data if len(data) == SIZE else None


def _new_key() -> bytes | None:
    """Write a key that the user alone can read, unless another process was first; return the one that stands there."""
    with suppress(OSError, RuntimeError):
        path = key_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{path.name}.{os.getpid()}")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SIZE))
        with suppress(FileExistsError):
            os.link(scratch, path)
        scratch.unlink()
    return _key()

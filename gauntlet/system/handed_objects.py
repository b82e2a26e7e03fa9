"""Objects of a Python caller (networks, images, attacks) that a configuration names by a digest of their content.

A configuration holds plain values, so that it can be recorded, hashed and compared. What Python code hands in stands in
it by a digest, and is looked up here while the call lasts. Who rebuilds the run later hands the same content in again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from gauntlet.errors import UserError

_handed: ContextVar[Mapping[str, Any]] = ContextVar("_handed", default={})  # noqa: B039 (never changed in place)


@contextmanager
def handed(objects: Mapping[str, Any]) -> Iterator[None]:
    """Make objects known by their digests, beside those that are known already."""
    before = _handed.set({**_handed.get(), **objects})
    try:
        yield
    finally:
        _handed.reset(before)


def found(digest: str) -> Any:
    """Return the object of that digest; None where nobody has handed it in."""
    return _handed.get().get(digest)


def taken(digest: str, what: str, remedy: str) -> Any:
    """Return the object of that digest.

    Args:
        what: it is, for the message.
        remedy: how it is handed in.

    Raises:
        UserError: nobody has handed it in.
    """
    if (it := found(digest)) is None:
        raise UserError(f"{what} came from Python code and is not here; {remedy}")
    return it

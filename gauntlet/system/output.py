"""Standard output and error that never stop the work: a closed pipe or a full device only loses text."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from gauntlet.errors import reason

PLAIN = str.maketrans({"·": "-", "–": "-", "≤": "<=", "≥": ">=", "…": "...", "ε": "eps", "∞": "inf", "†": "+"})
"""What a terminal without these signs shows in their place."""


class SteadyStream:
    """A stream whose writes never raise. The first that fails sends the rest to nowhere."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream: Any = stream if stream is not None else Path(os.devnull).open("w")  # noqa: SIM115 (lives on)
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text; signs that the stream cannot encode are written in plain ones."""
        try:
            self.stream.write(text)
        except UnicodeEncodeError as cause:
            plain = text.translate(PLAIN).encode(cause.encoding, "backslashreplace").decode(cause.encoding)
            self.write(plain)
        except OSError as cause:
            self._give_up(cause)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self.stream.flush()
        except OSError as cause:
            self._give_up(cause)

    def _give_up(self, cause: OSError) -> None:
        if self.failure is not None:
            return
        self.failure = cause
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:  # what is still buffered goes there too, else the interpreter complains about it when it ends
            os.dup2(nowhere, self.stream.fileno())
        except (OSError, ValueError, AttributeError):
            self.stream = Path(os.devnull).open("w")  # noqa: SIM115 (lives on)
        finally:
            os.close(nowhere)


@contextmanager
def steady_output() -> Iterator[None]:
    """Let a command finish whatever becomes of its output, and say where that could not be written.

    A reader that has gone away, such as `head`, is no failure: nothing is said of it.
    """
    before = sys.stdout, sys.stderr
    out, err = (stream if isinstance(stream, SteadyStream) else SteadyStream(stream) for stream in before)
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        out.flush()
        if out.failure is not None and out.failure.errno != errno.EPIPE and out is not before[0]:
            err.write(f"warning: the output could not be written ({reason(out.failure)}); what was done is kept\n")
        err.flush()
        sys.stdout, sys.stderr = before

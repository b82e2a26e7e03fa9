"""How long the work on one image may take."""

import math
import time
from dataclasses import dataclass

clock = time.process_time
"""Seconds of processor time of this process; tests put another clock here."""


@dataclass(frozen=True)
class Deadline:
    """A moment by the clock after which no work is begun; end: inf: never."""

    end: float = math.inf

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """Return the deadline so many seconds from now; 0: none."""
        return cls(clock() + seconds) if seconds else cls()

    @property
    def left(self) -> float:
        """Return the seconds until then, negative when it has passed."""
        return self.end - clock()

    @property
    def over(self) -> bool:
        """Return whether it has passed."""
        return self.left < 0


NEVER = Deadline()

"""The eps of a threat as it is written: a number, an exact fraction, or unbounded."""

import math
import re
from fractions import Fraction
from functools import cache

from gauntlet.errors import UserError

UNBOUNDED = "unbounded"
"""The eps of a run that measures distances: only the box limits."""


@cache
def parse_eps(eps: str | float) -> Fraction | float:
    """Return eps as an exact fraction where it was given as one; infinite for "unbounded".

    Raises:
        UserError: it is neither a positive finite number nor "unbounded".
    """
    if eps == UNBOUNDED:
        return math.inf
    try:
        if isinstance(eps, str) and (parts := re.fullmatch(r"\s*([+-]?\d*\.?\d+)/(\d+)\s*", eps)):
            value: Fraction | float = Fraction(parts[1]) / int(parts[2])  # such as 8/255, or 0.5/255
        else:
            value = float(eps)
    except (ValueError, TypeError, ZeroDivisionError):
        raise UserError(f"threat.eps={eps!r} is not a number; write for example threat.eps=8/255 or 0.03") from None
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"threat.eps={eps} must be a positive number; write for example threat.eps=8/255 or 0.03")
    return value

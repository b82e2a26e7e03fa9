"""Questions to verifiers in VNN-LIB 1.0, and the counterexamples that they answer with (https://www.vnnlib.org)."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gauntlet.errors import UserError

Floats = NDArray[np.float64]

_BOUND = re.compile(r"\(assert \((<=|>=) X_(\d+) (\S+)\)\)")
_RIVAL = re.compile(r"\(and \(>= Y_(\d+) Y_(\d+)\)\)")
_VALUE = re.compile(r"\(\s*X_(\d+)\s+([^\s()]+)\s*\)")


@dataclass(frozen=True, eq=False)
class Property:
    """Whether some image in a box has a class other than its own: what a counterexample satisfies.

    Args:
        lower, upper: of the pixels in the order of the network's input, float64 [C * H * W].
        label: the class that has to win; equal scores are a counterexample.
        classes: number of scores.
    """

    lower: Floats
    upper: Floats
    label: int
    classes: int

    def text(self, about: str = "") -> str:
        """Return the property as a VNN-LIB file; numbers are written so that they read back to the last bit."""
        out = [f"; {line}" for line in about.splitlines()]
        out += [f"(declare-const X_{at} Real)" for at in range(len(self.lower))]
        out += [f"(declare-const Y_{at} Real)" for at in range(self.classes)]
        for at, (low, high) in enumerate(zip(self.lower.tolist(), self.upper.tolist(), strict=True)):
            out += [f"(assert (<= X_{at} {_decimal(high)}))", f"(assert (>= X_{at} {_decimal(low)}))"]
        rivals = (k for k in range(self.classes) if k != self.label)
        out.append("(assert (or " + " ".join(f"(and (>= Y_{k} Y_{self.label}))" for k in rivals) + "))")
        return "\n".join(out) + "\n"

    @classmethod
    def read(cls, text: str) -> "Property":
        """Return the property of a file that `text` wrote.

        Raises:
            UserError: it asks something else.
        """
        ends: dict[str, dict[int, float]] = {"<=": {}, ">=": {}}
        for sign, at, value in _BOUND.findall(text):
            ends[sign][int(at)] = float(value)
        rivals = [(int(other), int(own)) for other, own in _RIVAL.findall(text)]
        labels, count = {own for _, own in rivals}, len(ends["<="])
        if len(labels) != 1 or any(sorted(each) != list(range(count)) for each in ends.values()):
            raise UserError("this VNN-LIB file does not ask whether another class can win in a box of pixels")
        upper, lower = (np.array([ends[sign][at] for at in range(count)]) for sign in ("<=", ">="))
        return cls(lower, upper, labels.pop(), len(rivals) + 1)

    def violated(self, x: Floats, scores: Floats) -> Any:
        """Return whether images x [n, C * H * W] with scores [n, classes] are counterexamples, bool [n]."""
        inside = ((x >= self.lower) & (x <= self.upper)).all(1)
        rest = np.delete(scores, self.label, axis=1).max(1)
        return inside & (rest >= scores[:, self.label])


def counterexample(text: str, pixels: int) -> Floats:
    """Return the image of a counterexample, float64 [pixels], as `((X_0 0.5) (X_1 0.25) ... (Y_0 ...))`.

    Raises:
        UserError: a pixel is missing, or is no number.
    """
    try:
        found = {int(at): float(value) for at, value in _VALUE.findall(text)}
    except ValueError as cause:
        raise UserError(f"it holds {cause}") from None
    if sorted(found) != list(range(pixels)):
        raise UserError(f"it gives {len(found)} values X_0, X_1, ... where the network reads {pixels}")
    return np.array([found[at] for at in range(pixels)])


def _decimal(value: float) -> str:
    """Return a number without an exponent: parsers of VNN-LIB need not know one.

    >>> _decimal(0.1), _decimal(1e-7), _decimal(0.0)
    ('0.1', '0.0000001', '0.0')
    """
    return np.format_float_positional(value, trim="0")

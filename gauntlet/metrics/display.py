"""Numbers as text, the same in every report and on every page."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from gauntlet.evidence.manifest import ThreatFacts

DASH = "–"
"""In place of a number that there is not."""

UNKNOWN = "unknown"
"""In place of a robust accuracy of which the records say nothing: each sample that was attacked ended with an error."""


def ratio(part: float, whole: float) -> float:
    """Return part / whole; NaN where nothing was counted."""
    return part / whole if whole else math.nan


def number(value: float | None, form: str) -> str:
    """Return a number in a form of `format`, or a dash where it is None or NaN."""
    return DASH if value is None or math.isnan(value) else format(value, form)


def points(value: float | None, digits: int = 1) -> str:
    """Return a share in percent, without the sign, or a dash where it is None or NaN.

    >>> points(0.5), points(None)
    ('50.0', '–')
    """
    return DASH if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def kind_words(threat: ThreatFacts) -> str:
    """Return the norm, or the kind of a threat with its shape: runs of different words are never compared.

    >>> kind_words({"norm": "linf"}), kind_words({"norm": "patch", "count": 2, "aspect": 0.5, "row": 0, "column": 3})
    ('linf', 'patch x2 aspect 0.5 at 0,3')
    """
    words = [threat["norm"]]
    words += [f"x{threat['count']}"] if "count" in threat else []
    words += [f"aspect {threat['aspect']:g}"] if "aspect" in threat else []
    words += [f"at {threat['row']},{threat['column']}"] if "row" in threat and "column" in threat else []
    limits = {key: threat.get(key) for key in ("rotation", "translation", "hue", "saturation")}
    return " ".join(words + [f"{key} {value:g}" for key, value in limits.items() if value is not None])


def threat_words(threat: ThreatFacts) -> str:
    """Return what the attacker may change and wants, such as `linf 8/255` or `linf 8/255 targeted (random)`."""
    aim = f" targeted ({threat['target'].replace('_', ' ')})" if "target" in threat else ""
    return f"{kind_words(threat)} {threat['eps']}{aim}"


def class_name(number: int, names: Sequence[str]) -> str:
    """Return a class in words: its number, and its name where it has one.

    >>> class_name(3, ["eel", "fox", "gnu", "cat"]), class_name(3, [])
    ('3 cat', '3')
    """
    return f"{number} {names[number]}" if 0 <= number < len(names) else str(number)


def distinct_names(names: Sequence[str], marks: Sequence[str]) -> list[str]:
    """Return the names, each that stands there more than once with its mark behind it.

    >>> distinct_names(["pgd", "pma", "pgd"], ["1f", "2e", "3d"])
    ['pgd 1f', 'pma', 'pgd 3d']
    """
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} {mark}" for name, mark in zip(names, marks, strict=True)]


def csv_row(cells: Iterable[object]) -> list[object]:
    """Return cells that no spreadsheet takes for a formula: a text that begins like one gets an apostrophe before it.

    >>> csv_row(["=1+1", "@x", -0.5, "-0.5", "pgd", None])
    ["'=1+1", "'@x", -0.5, '-0.5', 'pgd', None]
    """
    return [f"'{cell}" if isinstance(cell, str) and _formula(cell) else cell for cell in cells]


def _formula(text: str) -> bool:
    if not text.startswith(("=", "@", "-", "+", "\t", "\r")):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def span(low: float, high: float) -> str:
    """Return an interval in percent, with the sign."""
    return f"{low:.2%} to {high:.2%}"

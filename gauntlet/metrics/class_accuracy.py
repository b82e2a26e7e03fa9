"""Robust accuracy of single classes: an average hides the class that falls first."""

from collections.abc import Sequence

from gauntlet.metrics.attack_summary import AttackSummary
from gauntlet.metrics.display import class_name

LEAST = 5
"""Images that a class needs to be compared: with fewer, the worst class is a matter of luck."""

SHOWN = 3


def worst_classes(total: AttackSummary, names: Sequence[str]) -> list[str]:
    """Return a line with the classes of the lowest robust accuracy; nothing where no two classes can be compared.

    Args:
        names: of the classes; empty: they have none, and nobody could tell them apart.
    """
    known = [
        (robust / count, label, robust, count) for label, (count, robust) in total.classes.items() if count >= LEAST
    ]
    if not names or len(known) < 2 or total.open:
        return []
    lowest = sorted(each for each in known if each[2] < each[3])
    if not lowest:
        return []
    words = [f"{class_name(label, names)}: {robust} of {count}" for _, label, robust, count in lowest[:SHOWN]]
    return [f"worst classes    {', '.join(words)}"]

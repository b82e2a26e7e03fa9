"""Robust accuracy as a function of the perturbation size. Imports no torch."""

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from gauntlet.metrics.display import distinct_names, kind_words
from gauntlet.metrics.perturbation_size import Distances, Floats

MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
"""The grid, in units of the reference eps."""


QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Of the nearest adversarial examples over all runs: more points of the grid."""


def groups(answers: Sequence[Distances]) -> list[list[Distances]]:
    """Return the runs that may be compared: same victim, data, samples, norm, box and goal."""
    found: dict[tuple[object, ...], list[Distances]] = defaultdict(list)
    for answer in answers:
        m = answer.manifest
        box = kind_words(m["threat"]), m["threat"]["low"], m["threat"]["high"], m["threat"].get("target", "")
        found[m["victim"], m["dataset"]["digest"], answer.ids.tobytes(), *box].append(answer)
    return list(found.values())


def reference(group: Sequence[Distances]) -> float | None:
    """Return the reference eps: that of the data set in this norm, else the largest finite one of the runs."""
    norm = group[0].manifest["threat"]["norm"]
    for answer in group:
        budget = (answer.manifest["config"].get("dataset", {}).get("budgets") or {}).get(norm)
        if budget is not None:
            over, _, under = str(budget).partition("/")  # such as 0.5/255
            return float(Fraction(over) / int(under or 1))
    radii = [radius for answer in group if (radius := answer.manifest["threat"]["radius"]) is not None]
    return max(radii, default=None)


def grid(best: Floats, eps: float | None) -> list[float]:
    """Return the values of eps that a table shows, rising."""
    finite = best[np.isfinite(best) & (best > 0)]
    points = {each * eps for each in MULTIPLES} if eps else {0.0}
    return sorted(points | {float(np.quantile(finite, q)) for q in QUANTILES if len(finite)})


def names(group: Sequence[Distances]) -> list[str]:
    """Return the attacks, distinguished by their folders where they have one name; a star marks those with a finite
    eps.
    """
    attacks = [answer.manifest["name"]["attack"] for answer in group]
    return [
        f"{name} *" if answer.manifest["threat"]["radius"] is not None else name
        for name, answer in zip(distinct_names(attacks, [answer.run.path.name for answer in group]), group, strict=True)
    ]

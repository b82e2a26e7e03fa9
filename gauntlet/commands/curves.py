"""Robustness curves: `gauntlet curves runs/...`. Accuracy at every eps, median distances and optimality.

Runs without a bound (`threat.eps=unbounded`) say how far the attacker must go. Runs of one victim, data set and norm
are laid side by side; the last row is the AND rule at each eps: a sample stands where no run found anything within it.
What a run with a finite eps found counts, but it did not look for the nearest: it is marked.
"""

import csv
import io
import math
from collections.abc import Iterator, Sequence

import numpy as np

from gauntlet.commands.victim_groups import Group, VictimGroups, answered, parser, write_data
from gauntlet.metrics.display import DASH, csv_row, number
from gauntlet.metrics.perturbation_size import Floats, accuracy, area, nearest, optimality
from gauntlet.metrics.robustness_curve import grid, names, reference

BEST = "all runs"


def lines(group: Group) -> Iterator[str]:
    """The tables of one group."""
    first, eps = group[0].manifest, reference(group)
    best = nearest([answer.distance for answer in group])
    points, labels = grid(best, eps), [*names(group), BEST]
    curves = [*(answer.distance for answer in group), best]
    limits = [*(answer.limit for answer in group), max(answer.limit for answer in group)]
    width = max(len(label) for label in labels) + 2
    yield (
        f"{first['name']['defense']} · {first['name'].get('model', '')} · {first['dataset']['name']} · "
        f"{first['threat']['norm']} · n = {len(best)}" + (f" · reference eps {eps:.6g}" if eps else "")
    )
    yield ""
    yield f"{'robust accuracy at eps':<{width}}" + "".join(f"{point:>10.4g}" for point in points)
    for label, curve, limit in zip(labels, curves, limits, strict=True):
        shares = zip(points, accuracy(curve, points), strict=True)
        known = (share if point <= limit else None for point, share in shares)
        yield f"{label:<{width}}" + "".join(f"{number(share, '.2%'):>10}" for share in known)
    yield ""
    twice = "" if eps is None else f"{'opt. to 2 eps':>15}{'area to 2 eps':>15}"
    yield f"{'':<{width}}{'median':>10}{'optimality':>12}{twice}{'F':>9}{'B':>9}"
    for label, curve, limit in zip(labels, curves, limits, strict=True):
        answer = dict(zip(labels, group, strict=False)).get(label)
        if limit < math.inf:
            more, median, whole = "" if eps is None else f"{DASH:>15}{DASH:>15}", DASH, DASH
        else:
            more = "" if eps is None else f"{optimality(curve, best, 2 * eps):>15.4f}{area(curve, 2 * eps):>15.5g}"
            median, whole = _median(curve), f"{optimality(curve, best):.4f}"
        passes = "" if answer is None else f"{answer.forwards:>9.1f}{answer.backwards:>9.1f}"
        yield f"{label:<{width}}{median:>10}{whole:>12}{more}{passes}"
    yield "(median: of the samples with a right clean prediction; F, B: forward and backward passes per sample)"
    if any(label.endswith(" *") for label in labels):
        yield "(*: a run with a finite eps, which stops at its first success and says nothing of larger eps)"


def _median(distance: Floats) -> str:
    right = distance[distance > 0]
    middle = float(np.quantile(right, 0.5, method="higher")) if len(right) else math.nan
    return "not found" if middle == math.inf else f"{middle:.5g}"


def as_csv(groups: Sequence[Group]) -> str:
    """Return the curves as data, one line for each run and each distance at which its accuracy changes."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["dataset", "defense", "norm", "attack", "run", "samples", "eps", "robust_accuracy"])
    for group in groups:
        who = group[0].manifest
        best = nearest([answer.distance for answer in group])
        curves = [
            *((n, a.run.path.name, a.distance, a.limit) for n, a in zip(names(group), group, strict=True)),
            (BEST, "", best, max(answer.limit for answer in group)),
        ]
        for label, run, curve, limit in curves:
            steps = [eps for eps in sorted({0.0, *curve[np.isfinite(curve)].tolist()}) if eps <= limit]
            for eps, share in zip(steps, accuracy(curve, steps), strict=True):
                place = who["dataset"]["name"], who["name"]["defense"], who["threat"]["norm"]
                writer.writerow(csv_row([*place, label.removesuffix(" *"), run, len(curve), repr(eps), repr(share)]))
    return sink.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Print the curves of the runs below the given folders; 1 where there is none, or one that cannot be used."""
    options = parser("curves", "Robustness curves of finished runs.").parse_args(arguments)

    def answer(found: VictimGroups) -> int:
        write_data(options.csv, as_csv(found.together))
        return found.show(["\n".join(lines(group)) for group in found.together], "runs of attacks")

    return answered(options, answer)

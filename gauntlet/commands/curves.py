"""Robustness curves: `python -m harness.curves runs/...`. Accuracy at every eps, median distances and optimality.

Runs without a bound (`threat.eps=unbounded`) say how far the attacker must go. Runs of one victim, data set and norm
are laid side by side; the last row is the AND rule at each eps: a sample stands where no run found anything within it.
What a run with a finite eps found counts, but it did not look for the nearest: it is marked.
"""

import argparse
import csv
import io
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from harness.distances import Distances, Floats, accuracy, area, nearest, optimality, read
from harness.errors import OtherKind, UserError, left_out
from harness.records import find_runs, write_atomically

MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
"""The grid, in units of the reference eps."""

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Of the nearest finds over all runs: more points of the grid."""

BEST = "all runs"


def groups(answers: Sequence[Distances]) -> list[list[Distances]]:
    """Runs that may be compared: same victim, data, samples, norm and box."""
    found: dict[tuple[object, ...], list[Distances]] = defaultdict(list)
    for answer in answers:
        m = answer.manifest
        box = m["threat"]["norm"], m["threat"]["low"], m["threat"]["high"]
        found[m["victim"], m["dataset"]["digest"], answer.ids.tobytes(), *box].append(answer)
    return list(found.values())


def reference(group: Sequence[Distances]) -> float | None:
    """The reference eps: that of the data set in this norm, else the largest finite one of the runs."""
    norm = group[0].manifest["threat"]["norm"]
    for answer in group:
        budget = (answer.manifest["config"].get("dataset", {}).get("budgets") or {}).get(norm)
        if budget is not None:
            return float(Fraction(str(budget)))
    radii = [radius for answer in group if (radius := answer.manifest["threat"]["radius"]) is not None]
    return max(radii, default=None)


def grid(best: Floats, eps: float | None) -> list[float]:
    """The values of eps that a table shows, rising."""
    finite = best[np.isfinite(best) & (best > 0)]
    points = {each * eps for each in MULTIPLES} if eps else {0.0}
    return sorted(points | {float(np.quantile(finite, q)) for q in QUANTILES if len(finite)})


def names(group: Sequence[Distances]) -> list[str]:
    """The attacks, told apart by their folders where they have one name; a star marks those with a finite eps."""
    plain = [answer.manifest["name"]["attack"] for answer in group]
    told = [
        name if plain.count(name) == 1 else f"{name} {answer.run.path.name}"
        for name, answer in zip(plain, group, strict=True)
    ]
    return [
        f"{name} *" if answer.manifest["threat"]["radius"] is not None else name
        for name, answer in zip(told, group, strict=True)
    ]


def lines(group: Sequence[Distances]) -> Iterator[str]:
    """The tables of one group."""
    first, eps = group[0].manifest, reference(group)
    best = nearest([answer.distance for answer in group])
    points, labels = grid(best, eps), [*names(group), BEST]
    curves = [*(answer.distance for answer in group), best]
    width = max(len(label) for label in labels) + 2
    yield (
        f"{first['name']['defense']} · {first['name'].get('model', '')} · {first['dataset']['name']} · "
        f"{first['threat']['norm']} · n = {len(best)}" + (f" · reference eps {eps:.6g}" if eps else "")
    )
    yield ""
    yield f"{'robust accuracy at eps':<{width}}" + "".join(f"{point:>10.4g}" for point in points)
    for label, curve in zip(labels, curves, strict=True):
        yield f"{label:<{width}}" + "".join(f"{share:>10.2%}" for share in accuracy(curve, points))
    yield ""
    twice = "" if eps is None else f"{'opt. to 2 eps':>15}{'area to 2 eps':>15}"
    yield f"{'':<{width}}{'median':>10}{'optimality':>12}{twice}{'F':>9}{'B':>9}"
    for label, curve in zip(labels, curves, strict=True):
        answer = dict(zip(labels, group, strict=False)).get(label)
        more = "" if eps is None else f"{optimality(curve, best, 2 * eps):>15.4f}{area(curve, 2 * eps):>15.5g}"
        passes = "" if answer is None else f"{answer.forwards:>9.1f}{answer.backwards:>9.1f}"
        yield f"{label:<{width}}{_median(curve):>10}{optimality(curve, best):>12.4f}{more}{passes}"
    yield "(median: of the samples that are right as they are; F, B: forward and backward passes per attacked sample)"
    if any(label.endswith(" *") for label in labels):
        yield "(*: a run with a finite eps; it stops at its first find and knows nothing beyond)"


def _median(distance: Floats) -> str:
    right = distance[distance > 0]
    middle = float(np.quantile(right, 0.5, method="higher")) if len(right) else math.nan
    return "not found" if middle == math.inf else f"{middle:.5g}"


def as_csv(groups: Sequence[Sequence[Distances]]) -> str:
    """The curves as data, one line for each run and each distance at which its accuracy changes."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["dataset", "defense", "norm", "attack", "run", "samples", "eps", "robust_accuracy"])
    for group in groups:
        who = group[0].manifest
        best = nearest([answer.distance for answer in group])
        curves = [
            *((n, a.run.path.name, a.distance) for n, a in zip(names(group), group, strict=True)),
            (BEST, "", best),
        ]
        for label, run, curve in curves:
            steps = sorted({0.0, *curve[np.isfinite(curve)].tolist()})
            for eps, share in zip(steps, accuracy(curve, steps), strict=True):
                place = who["dataset"]["name"], who["name"]["defense"], who["threat"]["norm"]
                writer.writerow([*place, label.removesuffix(" *"), run, len(curve), repr(eps), repr(share)])
    return sink.getvalue()


def _answers(folders: Sequence[Path]) -> Iterator[Distances | UserError | None]:
    """Of each run; None where it is of another kind and was not named itself."""
    for folder in folders:
        runs = find_runs(folder) if folder.is_dir() else []
        if not runs:
            raise UserError(f"there is no run in {folder}; make one: python run.py attack=fmn threat.eps=unbounded")
        for run in runs:
            try:
                yield read(run)
            except UserError as cause:
                yield None if isinstance(cause, OtherKind) and run.path not in folders else cause


def main(arguments: list[str] | None = None) -> int:
    """Print the curves of the runs below the given folders; 1 where there is none, or one that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m harness.curves", description="Robustness curves of finished runs.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of runs")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the curves as data")
    options = parser.parse_args(arguments)
    try:
        found = list(_answers(options.folders))
        together = groups([answer for answer in found if isinstance(answer, Distances)])
        if options.csv is not None:
            write_atomically(options.csv, as_csv(together).encode())
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1
    unfit = [answer for answer in found if isinstance(answer, UserError)]
    for why in unfit:
        sys.stderr.write(f"left out: {why}\n")
    sys.stderr.write(left_out(found.count(None), "" if together else "; name runs of attacks"))
    sys.stdout.write("\n\n".join("\n".join(lines(group)) for group in together) + ("\n" if together else ""))
    return 1 if unfit or not together else 0


if __name__ == "__main__":
    sys.exit(main())

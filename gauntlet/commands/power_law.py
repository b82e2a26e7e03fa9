"""The power law of small perturbations: `gauntlet study powerlaw runs/...`. Error against eps, and its exponent.

Runs of one victim, data set and norm make one fit, to the images that are right without an attack: at every eps of a
run without a bound (`threat.eps=unbounded`), else at the eps of the runs (arXiv 1711.02846).
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gauntlet.commands.curves import answers
from gauntlet.errors import UserError, left_out
from gauntlet.metrics.perturbation_size import Distances, nearest
from gauntlet.metrics.power_law import PowerLaw, fitted
from gauntlet.metrics.robustness_curve import groups, names


def law_of(group: Sequence[Distances]) -> PowerLaw:
    """Return the fit to the runs of one victim. Raises UserError where there are too few points."""
    radii = [radius for each in group if (radius := each.manifest["threat"]["radius"]) is not None]
    return fitted(nearest([each.distance for each in group]), radii, len(radii) < len(group))


def lines(group: Sequence[Distances]) -> Iterator[str]:
    """Yield the report of one fit. Raises UserError where there are too few points."""
    law, first = law_of(group), group[0].manifest
    yield (
        f"{first['name']['defense']} · {first['name'].get('model', '')} · {first['dataset']['name']} · "
        f"{first['threat']['norm']} · {law.samples} images that are right without an attack · {', '.join(names(group))}"
    )
    yield f"{'eps':>10}{'error':>10}{'law':>10}"
    for eps, error, used in zip(law.eps, law.error, law.used, strict=True):
        predicted = f"{law.factor * eps**law.exponent:>10.2%}" if used else f"{'not fitted':>12}"
        yield f"{eps:>10.4g}{error:>10.2%}{predicted}"
    low, high = law.interval
    yield f"exponent   {law.exponent:.3f}   95 % interval {low:.3f} to {high:.3f}   R^2 {law.determination:.4f}"
    yield f"law        error = {law.factor:.4g} eps^{law.exponent:.3f}"
    yield f"saturating error = 1 - exp(-(eps / {law.scale:.4g})^{law.saturating:.3f})"
    if law.half < float("inf"):
        yield f"half of the images are wrong at eps {law.half:.4g}"


def main(arguments: list[str] | None = None) -> int:
    """Print the fits of the runs below the given folders; 1 where there is none, or one that cannot be made."""
    parser = argparse.ArgumentParser(prog="gauntlet study powerlaw", description="Error against eps as a power law.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of runs")
    options = parser.parse_args(arguments)
    try:
        found = list(answers(options.folders))
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1
    unfit = [answer for answer in found if isinstance(answer, UserError)]
    reports = []
    for group in groups([answer for answer in found if isinstance(answer, Distances)]):
        try:
            reports.append("\n".join(lines(group)))
        except UserError as cause:
            unfit.append(UserError(f"{group[0].run.path}: {cause}"))
    for why in unfit:
        sys.stderr.write(f"left out: {why}\n")
    sys.stderr.write(left_out(found.count(None), "" if reports else "; name runs of attacks"))
    sys.stdout.write("\n\n".join(reports) + ("\n" if reports else ""))
    return 1 if unfit or not reports else 0

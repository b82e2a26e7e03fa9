"""The power law of small perturbations: `gauntlet study powerlaw runs/...`. Error against eps, and its exponent.

Runs of one victim, data set and norm make one fit, to the images that are right without an attack: at every eps of a
run without a bound (`threat.eps=unbounded`), else at the eps of the runs (arXiv 1711.02846).
"""

from collections.abc import Iterator

from gauntlet.commands.victim_groups import Group, VictimGroups, answered, parser
from gauntlet.errors import UserError
from gauntlet.metrics.perturbation_size import nearest
from gauntlet.metrics.power_law import PowerLaw, fitted
from gauntlet.metrics.robustness_curve import names


def law_of(group: Group) -> PowerLaw:
    """Return the fit to the runs of one victim. Raises UserError where there are too few points."""
    radii = [radius for each in group if (radius := each.manifest["threat"]["radius"]) is not None]
    return fitted(nearest([each.distance for each in group]), radii, len(radii) < len(group))


def lines(group: Group) -> Iterator[str]:
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
    options = parser("study powerlaw", "Error against eps as a power law.", data=False).parse_args(arguments)

    def answer(found: VictimGroups) -> int:
        reports = []
        for group in found.together:
            try:
                reports.append("\n".join(lines(group)))
            except UserError as cause:
                found.unfit.append(UserError(f"{group[0].run.path}: {cause}"))
        return found.show(reports, "runs of attacks")

    return answered(options, answer)

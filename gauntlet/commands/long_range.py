"""Robust accuracy to large eps: `gauntlet study longrange runs/...`. What of it is a failure of the attack.

Runs of one victim, data set and norm are laid side by side, each attack at the eps of its runs.
"""

import csv
import io
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gauntlet.commands.figure import COLORS, Drawing, check_ending, plain, save
from gauntlet.commands.victim_groups import Group, VictimGroups, answered, parser, write_data
from gauntlet.errors import UserError
from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.metrics.display import csv_row
from gauntlet.metrics.perturbation_size import Distances
from gauntlet.metrics.spurious_accuracy import LongRange, common_eps, long_range


def curves_of(group: Group) -> dict[str, LongRange]:
    """Return attack -> what its runs at a finite eps leave, of the runs of one victim on the same images."""
    by_attack: dict[str, list[Distances]] = defaultdict(list)
    for each in group:
        if each.manifest["threat"]["radius"] is not None:
            by_attack[each.manifest["name"]["attack"]].append(each)
    common, largest = _common(group[0]), _largest_class(group[0])
    return {
        attack: long_range(
            [(float(each.manifest["threat"]["radius"] or 0.0), each.distance) for each in runs],
            [each.distance for each in group if each not in runs],
            common,
            largest,
        )
        for attack, runs in sorted(by_attack.items())
    }


def _common(run: Distances) -> float:
    """Return the eps from which the balls around all images share a point, and a model can have but one class there.

    Infinite where that says nothing: a randomized defense may answer otherwise for each image, one that rejects may
    reject the point, and a targeted attack has a goal for each image.
    """
    columns = next(iter(run.run.read_parts())).column_names
    if "protocol" in run.manifest or "acceptance" in columns or run.manifest["threat"].get("target"):
        return math.inf
    threat, node = run.manifest["threat"], run.manifest["config"].get("dataset") or {}
    channels, size = node.get("channels"), node.get("size")
    if node.get("name") == "digits":
        channels, size = 1, 8
    dimensions = channels * size**2 if isinstance(channels, int) and isinstance(size, int) else None
    return common_eps(threat["norm"], dimensions, threat["low"], threat["high"])


def _largest_class(run: Distances) -> float:
    """Return the share of the images of the most frequent class."""
    counts: dict[int, int] = defaultdict(int)
    for part in run.run.read_parts():
        clean = part["stage"].to_numpy() == CLEAN_STAGE
        for label, count in zip(*np.unique(part["label"].to_numpy()[clean], return_counts=True), strict=True):
            counts[int(label)] += int(count)
    return max(counts.values()) / sum(counts.values())


def lines(group: Group, curves: dict[str, LongRange]) -> Iterator[str]:
    """Yield the tables of one victim."""
    first = group[0].manifest
    yield (
        f"{first['name']['defense']} · {first['name'].get('model', '')} · {first['dataset']['name']} · "
        f"{first['threat']['norm']} · n = {len(group[0].ids)}"
    )
    for attack, curve in curves.items():
        yield ""
        yield f"{attack:<26}" + "".join(f"{eps:>9.4g}" for eps in curve.eps)
        for name, shares in (
            ("left at eps", curve.left),
            ("left by all runs to eps", curve.within),
            ("any model has at most", curve.ceiling),
            ("spurious at least", curve.spurious),
        ):
            yield f"{name:<26}" + "".join(f"{share:>9.2%}" for share in shares)
        yield from (f"  {line}" for line in _said(attack, curve))


def _said(attack: str, curve: LongRange) -> Iterator[str]:
    """Yield what must not be: a rise, and more than any model can have."""
    for i in curve.rises:
        before, here = curve.eps[i - 1], curve.eps[i]
        yield (
            f"not monotone: {attack} leaves {curve.left[i]:.2%} at {here:.4g} and {curve.left[i - 1]:.2%} at the "
            f"smaller {before:.4g}: it fails, or gradients are masked"
        )
    above = [i for i, share in enumerate(curve.left) if share > curve.ceiling[i]]
    if above:
        last = above[-1]
        yield (
            f"above chance: {attack} leaves {curve.left[last]:.2%} at {curve.eps[last]:.4g}, where all images can be "
            f"made the same one, and no model has more than {curve.ceiling[last]:.2%}: gradients are masked"
        )
    if any(curve.spurious) and not above:
        most = max(range(len(curve.eps)), key=lambda i: curve.spurious[i])
        yield (
            f"{attack} fails on {curve.spurious[most]:.2%} of the images at {curve.eps[most]:.4g}, which other runs "
            "break within that eps"
        )
    if not curve.rises and not any(curve.spurious):
        yield "no sign of spurious accuracy in these runs"


def as_csv(found: Sequence[tuple[Group, dict[str, LongRange]]]) -> str:
    """Return the curves as data, one line for each attack and eps."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["dataset", "defense", "norm", "attack", "eps", "left", "left_by_all", "ceiling", "spurious"])
    for group, curves in found:
        who = group[0].manifest
        for attack, curve in curves.items():
            place = who["dataset"]["name"], who["name"]["defense"], who["threat"]["norm"], attack
            for row in zip(curve.eps, curve.left, curve.within, curve.ceiling, curve.spurious, strict=True):
                writer.writerow(csv_row([*place, *map(repr, row)]))
    return sink.getvalue()


def drawings(found: Sequence[tuple[Group, dict[str, LongRange]]]) -> Iterator[Drawing]:
    """Yield a figure of each victim: what each attack leaves over eps, what all runs leave within it, dashed, and what
    any model can have, gray."""
    for group, curves in found:
        who = group[0].manifest

        def draw(axes: Any, curves: dict[str, LongRange] = curves) -> None:
            for number, (attack, curve) in enumerate(curves.items()):
                color = COLORS[number % len(COLORS)]
                axes.plot(curve.eps, _percent(curve.left), "o-", markersize=3, color=color, label=plain(attack))
                least = [min(pair) for pair in zip(curve.within, curve.ceiling, strict=True)]
                axes.plot(curve.eps, _percent(least), "--", linewidth=0.8, color=color)
                axes.fill_between(curve.eps, _percent(least), _percent(curve.left), color=color, alpha=0.15)
            ceiling = {eps: most for each in curves.values() for eps, most in zip(each.eps, each.ceiling, strict=True)}
            places = sorted(ceiling)
            axes.plot(places, _percent([ceiling[eps] for eps in places]), ":", color="#999999", drawstyle="steps-post")
            axes.set(xlabel="$\\epsilon$", ylabel="robust accuracy (%)", ylim=(-2, 102))
            axes.legend()

        yield Drawing(f"{who['dataset']['name']} {who['threat']['norm']} {who['name']['defense']}", draw)


def _percent(shares: Sequence[float]) -> list[float]:
    return [100 * share for share in shares]


def main(arguments: list[str] | None = None) -> int:
    """Print the curves of the runs below the given folders; 1 where there is none, or one that cannot be used."""
    options_of = parser("study longrange", "Robust accuracy to large eps.")
    options_of.add_argument("--figure", type=Path, metavar="FILE", help="draw the curves: .pdf, .svg or .png")
    options = options_of.parse_args(arguments)

    def answer(found: VictimGroups) -> int:
        check_ending(options.figure)
        curves = [(group, made) for group in found.together if (made := curves_of(group))]
        write_data(options.csv, as_csv(curves))
        if not curves and not found.unfit and not found.others:
            raise UserError("no run has a finite eps; make some: attack=pgd threat.eps=0.1,0.3,0.5,1 with -m")
        for path in save(list(drawings(curves)), options.figure) if options.figure else ():
            sys.stderr.write(f"figure: {path}\n")
        return found.show(["\n".join(lines(*each)) for each in curves], "runs of attacks with a finite eps")

    return answered(options, answer)

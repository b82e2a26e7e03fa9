"""Errors on corrupted images: `gauntlet corruptions runs`. Each corruption at each severity, their means, and mCE.

Runs of `dataset=corrupted` and `common_corruptions` say it by their clean stage: what the attack did does not count
here. Runs of one victim on the same images are one table.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from gauntlet.errors import UserError, printable
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder, find_runs
from gauntlet.metrics.attack_summary import summarize
from gauntlet.metrics.corruption_error import SEVERITIES, complete, corruption_error, mean_corruption_error, mean_error
from gauntlet.metrics.display import points

TARGETS = ("gauntlet.data.corrupted.Corrupted", "gauntlet.data.common_corruptions.CommonCorruptions")


@dataclass
class CorruptionTable:
    """What one victim does on the corrupted versions of some images. errors: corruption -> severity -> error."""

    defense: str
    model: str
    place: str
    samples: int
    errors: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Return who it is, and on what."""
        return f"{self.defense} · {self.model} · {self.place} · n = {self.samples}"

    def matches(self, other: "CorruptionTable") -> bool:
        """Return whether both are about the same images."""
        return (self.place, self.samples) == (other.place, other.samples)


def tables(runs: Sequence[RunFolder]) -> list[CorruptionTable]:
    """Return a table for each victim and set of images.

    Raises:
        UserError: a run is damaged.
    """
    found: dict[tuple[str, ...], CorruptionTable] = {}
    for run in runs:
        manifest = run.manifest()
        if (at := _corruption(manifest)) is None or manifest["status"] != "done":
            continue
        corruption, severity, place = at
        total = summarize(run, manifest["stages"])
        if not total.samples:
            continue
        name, selection = manifest["name"], manifest["dataset"]["selection"]
        table = found.setdefault(
            (manifest["victim"], place, selection, str(total.samples)),
            CorruptionTable(name["defense"], name.get("model", ""), place, total.samples),
        )
        table.errors.setdefault(corruption, {}).setdefault(severity, 1 - total.clean / total.samples)
    return sorted(found.values(), key=lambda table: mean_error(table.errors))


def _corruption(manifest: Manifest) -> tuple[str, int, str] | None:
    """Return corruption, severity, and folder or data set of a run; None where it is about something else."""
    node = manifest["config"].get("dataset")
    if manifest["kind"] != "attack" or not isinstance(node, dict) or node.get("_target_") not in TARGETS:
        return None
    corruption, severity = node.get("corruption"), node.get("severity")
    if not isinstance(corruption, str) or not isinstance(severity, int) or severity not in SEVERITIES:
        return None
    inner = node.get("of")
    source = inner.get("name", "") if isinstance(inner, dict) else Path(str(node.get("path", ""))).name
    return printable(corruption), severity, printable(source)


def lines(table: CorruptionTable, reference: CorruptionTable | None) -> Iterator[str]:
    """Yield the table of one victim, errors in percent."""
    width = max(len(name) for name in [*table.errors, "corruption"]) + 2
    yield table.title
    yield ""
    column = f"{'CE':>9}" if reference else ""
    yield f"{'error, %':<{width}}" + "".join(f"{severity:>8}" for severity in SEVERITIES) + f"{'mean':>9}{column}"
    whole = complete(table.errors)
    other = complete(reference.errors) if reference else {}
    for name, errors in sorted(table.errors.items()):
        cells = "".join(f"{points(errors.get(severity)):>8}" for severity in SEVERITIES)
        mean = fmean(errors.values()) if name in whole else None
        ratio = corruption_error(errors, other[name]) if name in whole and name in other else None
        yield f"{name:<{width}}{cells}{points(mean):>9}" + (f"{points(ratio):>9}" if reference else "")
    yield ""
    said = f"mean error {points(mean_error(table.errors))} % over {len(whole)} of {len(table.errors)} corruptions"
    if reference:
        mce = mean_corruption_error(table.errors, reference.errors)
        said += f"; mCE {points(mce)} % of {reference.defense} · {reference.model}"
    yield said


def main(arguments: list[str] | None = None) -> int:
    """Print the tables of the runs below the given folders; 1 where there is none."""
    parser = argparse.ArgumentParser(prog="gauntlet corruptions", description="Errors on corrupted images, and mCE.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of runs")
    parser.add_argument("--reference", metavar="NAME", help="the model or defense whose errors are 100 %% of CE")
    options = parser.parse_args(arguments)
    try:
        found = tables([run for folder in options.folders for run in _runs(folder)])
        reference = _reference(found, options.reference)
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1
    shown = ("\n".join(lines(table, reference if reference and table.matches(reference) else None)) for table in found)
    sys.stdout.write("\n\n".join(shown) + "\n")
    return 0


def _runs(folder: Path) -> list[RunFolder]:
    return find_runs(folder) if folder.is_dir() else []


def _reference(found: Sequence[CorruptionTable], name: str | None) -> CorruptionTable | None:
    if not found:
        raise UserError(
            "there is no finished run of dataset=corrupted; make some: python run.py -m dataset=corrupted "
            "dataset.path=CIFAR-10-C dataset.corruption=fog,snow dataset.severity=1,2,3,4,5"
        )
    if name is None:
        return None
    fitting = [table for table in found if name in (table.defense, table.model, table.model.partition(" ")[0])]
    if len(fitting) != 1:
        known = ", ".join(f"{table.defense} · {table.model}" for table in found)
        raise UserError(f"--reference {name} is the name of {len(fitting)} of these; there are {known}")
    return fitting[0]

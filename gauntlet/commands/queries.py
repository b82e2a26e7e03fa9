"""`gauntlet queries`: queries that black-box attacks needed, from the evidence."""

import argparse
import csv
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gauntlet.errors import OtherKind, UserError, left_out
from gauntlet.evidence.run_folder import RunFolder, find_runs
from gauntlet.metrics.display import csv_row, number
from gauntlet.metrics.query_curve import BUDGETS, QueryCurve, curve
from gauntlet.system.atomic_file import write_atomically

HEAD = (
    "run", "dataset", "threat", "defense", "attack", "access", "samples", "misclassified", "errors", "budget", "known",
    "success", "failure", "mean", "median", "area", "area_to",
)  # fmt: skip


def rows(run: RunFolder, found: QueryCurve) -> list[list[Any]]:
    """Return one row of `HEAD` for each budget; an unknown number is an empty text."""
    manifest = run.manifest()
    name = manifest["name"]
    who = [str(run.path), name["dataset"], name["threat"], name["defense"], name["attack"]]
    count = [manifest.get("access", "gradient"), len(found.queries), found.wrong, found.errors]
    levels = [found.at(budget) for budget in BUDGETS]
    return [
        [*who, *count, at.budget, at.known, *map(_told, (at.success, 1 - at.success, at.mean, at.median, found.area)),
         _told(found.end)]
        for at in levels
    ]  # fmt: skip


def lines(run: RunFolder, found: QueryCurve) -> list[str]:
    """Return the table of a run, for people."""
    manifest = run.manifest()
    name, n, last = manifest["name"], len(found.queries), found.at(math.inf)
    failures = n - int(found.broken.sum())
    out = [
        f"{name['defense']} · {name['dataset']} · {name['threat']} · {name['attack']}   {run.path}",
        f"{n} samples; {found.wrong} more are misclassified without an attack"
        + (f"; {found.errors} of the failures are errors" if found.errors else ""),
        f"{'queries':>9}{'success':>10}{'failure':>10}{'mean':>10}{'median':>10}",
    ]
    for at in map(found.at, BUDGETS):
        low, high = ("", "") if at.known else ("≥ ", "≤ ")
        success, failure = (
            f"{sign * (share == share)}{number(share, '.1%')}"
            for sign, share in ((low, at.success), (high, 1 - at.success))
        )
        out.append(
            f"{at.budget:>9,}{success:>10}{failure:>10}{number(at.mean, ',.1f'):>10}{number(at.median, ',.1f'):>10}"
        )
    out.append(
        f"{n - failures} successes with {number(last.mean, ',.1f')} queries on average, "
        f"median {number(last.median, ',.1f')}; "
        f"{failures} failures" + (f" after {found.spent:,.0f} queries or more" if failures else "")
    )
    out.append(f"area under success over log queries, from 1 to {found.end:,.0f}: {found.area:.3f}")
    return out


def _told(value: float) -> float | str:
    return "" if math.isnan(value) else round(value, 6)


def as_csv(table: Sequence[Sequence[Any]]) -> str:
    """Return the rows under `HEAD`."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerows(map(csv_row, [HEAD, *table]))
    return sink.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Print the curve of each run below the given folders; 1 where there is none, or one that cannot be used."""
    parser = argparse.ArgumentParser(prog="gauntlet queries", description="Success against queries.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of runs")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there too")
    options = parser.parse_args(arguments)
    failed, others, table = False, 0, []
    for folder in options.folders:
        runs = find_runs(folder)
        if not runs:
            failed = True
            sys.stderr.write(f"error: there is no run.json below {folder}; name a run folder\n")
        for run in runs:
            try:
                found = curve(run)
                sys.stdout.write("\n".join(lines(run, found)) + "\n\n")
                table += rows(run, found)
            except UserError as cause:
                if isinstance(cause, OtherKind) and run.path not in options.folders:
                    others += 1
                    continue
                failed = True
                sys.stderr.write(f"error: {cause}\n")
    sys.stderr.write(left_out(others, "" if table else "; name runs of attacks that ask the model itself"))
    try:
        if options.csv is not None:
            write_atomically(options.csv, as_csv(table).encode())
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1
    sys.stdout.write("A query is a forward pass for one sample; the clean prediction is the first.\n" if table else "")
    return int(failed or not table)

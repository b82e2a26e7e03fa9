"""`gauntlet import FILE --for RUN`: judge adversarial examples from elsewhere, and record verdicts of verifiers.

`gauntlet import FILE --from NAME` keeps accuracies that a publication reports, apart from all evidence.
"""

import argparse
import shlex
import sys
from pathlib import Path

from gauntlet.commands.attack_report import lines
from gauntlet.commands.certification_report import certificate_lines
from gauntlet.commands.import_examples import import_examples
from gauntlet.commands.import_table import SOURCES, import_table
from gauntlet.commands.import_verdicts import import_verdicts
from gauntlet.errors import UserError, printable
from gauntlet.evidence.reported_table import MARK
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.verification.rebuild import Local


def main(arguments: list[str] | None = None) -> int:
    """Judge a file; 0 = every row is inside the threat."""
    about = "Judge adversarial examples from elsewhere, or record the verdicts of a verifier."
    parser = argparse.ArgumentParser(prog="gauntlet import", description=about)
    parser.add_argument(
        "file", type=Path, help=".pt, .npy, .npz or .safetensors with x_adv, and ids where not all; or results.csv"
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--for", dest="run", type=Path, metavar="RUN", help="folder of an attack run")
    kind.add_argument("--from", dest="source", choices=SOURCES, help="a publication's table of accuracies, no evidence")
    parser.add_argument("--meta", type=Path, metavar="FILE", help="with --from nasrobbench201: its meta.json")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="with --from: where it is kept")
    parser.add_argument(
        "--ids", type=Path, metavar="FILE", help="sample ids of the rows, where not every image has one"
    )
    parser.add_argument("--origin", metavar="TEXT", help="where they come from (default: the name of the file)")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package that the run may call")
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="a variable that the run may read")
    parser.add_argument("--model", metavar="FILE.py:FUNCTION", help="what makes the network of a run made in Python")
    words = list(sys.argv[2:] if arguments is None else arguments)
    options = parser.parse_args(arguments)
    if options.source:
        return _table(options)
    if options.meta:
        parser.error("--meta goes with --from")
    run, local = RunFolder(options.run), Local(options.trust, options.env, model=options.model)
    command = shlex.join(["gauntlet", "import", *words])
    try:
        if options.file.suffix == ".csv":
            found = import_verdicts(options.file, run, origin=options.origin, local=local, command=command)
            outcome, out = found.judged, [] if found.judged is None else [*lines(found.judged), ""]
            out += certificate_lines(found.claimed)
            out.append(f"answers: {found.proven} proven, {found.violated} violated, {found.open} open")
        else:
            outcome, remarks = import_examples(
                options.file, run, ids=options.ids, origin=options.origin, local=local, command=command
            )
            out = [*lines(outcome), *remarks]
    except UserError as cause:
        sys.stderr.write(f"error: {printable(cause)}\n")
        return 1
    sys.stdout.write("\n".join(out) + "\n")
    return int(outcome is not None and outcome.manifest["status"] != "done")


def _table(options: argparse.Namespace) -> int:
    """Keep a publication's table, and say what is in it."""
    try:
        place, table = import_table(options.file, options.meta, options.runs)
    except UserError as cause:
        sys.stderr.write(f"error: {printable(cause)}\n")
        return 1
    counts = ", ".join(f"{printable(name)} {len(found):,}" for name, found in table.tables.items())
    sys.stdout.write(f"{table.source}: {counts} systems, {MARK}: {place}\n")
    sys.stdout.write(f"next: gauntlet study correlation {shlex.quote(str(place))}\n")
    return 0

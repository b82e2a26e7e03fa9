"""A document for an auditor: `gauntlet report runs --out report.html --require "linf 4/255 >= 60%"`.

One self-contained page: system under test, threats, protocol, results with intervals, red flags, limits, and where
common frameworks ask for which of them.
"""

import argparse
import sys
from pathlib import Path

from gauntlet import __version__
from gauntlet.commands.board_input import RunSelection, add_arguments
from gauntlet.errors import UserError, printable
from gauntlet.leaderboard.audit_report import MET, Requirement, reports
from gauntlet.leaderboard.render import environment
from gauntlet.system.atomic_file import write_atomically


def main(arguments: list[str] | None = None) -> int:
    """Write the report; return 1 where a requirement is not met by every system, 2 where no report can be written."""
    parser = argparse.ArgumentParser(prog="gauntlet report", description="Report about evaluated systems.")
    add_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="(default: report.html)")
    parser.add_argument(
        "--require", action="append", default=[], metavar="TEXT", help='such as "linf 4/255 >= 60%%"; may be repeated'
    )
    options = parser.parse_args(arguments)
    try:
        asked = [Requirement.parse(text) for text in options.require]
        runs = RunSelection.of(options)
        boards = runs.tables()
        judged, unread = runs.certificates()
        for line in unread:
            sys.stderr.write(f"warning: {printable(line)}\n")
        if not boards:
            raise UserError(f"there is no attack run below {runs}; run an attack first")
        found = reports(boards, judged, asked)
        page = environment().get_template("report.html.j2").render(systems=found, version=__version__)
        write_atomically(options.out, page.encode())
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 2
    met = True
    for system in found:
        for each in system.decisions:
            sys.stdout.write(printable(f"{each.state}: {each.requirement.text}: {system.title}: {each.reason}") + "\n")
            met = met and each.state == MET
    sys.stdout.write(f"report: {options.out}\n")
    return 0 if met else 1

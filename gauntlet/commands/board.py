"""`gauntlet board`: build the leaderboard; with --verify, check every run first. Imports torch for that alone."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gauntlet.errors import UserError, printable
from gauntlet.evidence.run_folder import RunFolder, find_runs
from gauntlet.evidence.verdict import Verdict
from gauntlet.leaderboard.__main__ import parser, show

if TYPE_CHECKING:
    from gauntlet.verification.rebuild import Local
    from gauntlet.verification.report import Report
    from gauntlet.verification.sampling import Amount


def main(words: Sequence[str] | None = None) -> int:
    """Build the site; return the exit status: that of `gauntlet.leaderboard`, and 1 where --verify finds problems."""
    reader = parser()
    reader.add_argument("--verify", action="store_true", help="check every finished run while the board is built")
    reader.add_argument("--replay", metavar="N", help="with --verify: re-run N samples of each run, or a share (5%%)")
    reader.add_argument("--full", action="store_true", help="with --verify: re-run all samples of each run")
    reader.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package that runs may call")
    reader.add_argument("--env", action="append", default=[], metavar="NAME", help="a variable that runs may read")
    reader.add_argument(
        "--model", action="append", metavar="FILE.py:FUNCTION",
        help="what makes the network of runs made in Python; once for each network",
    )  # fmt: skip
    reader.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="where data or weights lie here"
    )
    options = reader.parse_args(words)
    if not options.verify:
        for name in ("replay", "full", "trust", "env", "model", "set"):
            if getattr(options, name):
                reader.error(f"--{name} goes with --verify")
        return show(options.runs, options.out, floor=options.floor)
    try:
        fresh, failed = _verdicts(options)
    except UserError as mistake:
        sys.stderr.write(f"error: {printable(mistake)}\n")
        return 2
    return show(options.runs, options.out, fresh, options.floor) or int(failed)


def _verdicts(options: argparse.Namespace) -> tuple[dict[Path, Verdict], bool]:
    """Return the verdicts about the finished runs, and whether one has problems or could not be checked."""
    from gauntlet.verification.rebuild import Local
    from gauntlet.verification.sampling import EVERYTHING, Amount
    from gauntlet.verification.verify import placed, store

    amount = EVERYTHING if options.full else Amount.of(options.replay) if options.replay else None
    places = dict(placed(word) for word in options.set)
    here = [Local(options.trust, options.env, places, model=model) for model in options.model or (None,)]
    fresh: dict[Path, Verdict] = {}
    failed = False
    for run in find_runs(options.runs):
        try:
            if run.manifest()["status"] == "running":
                continue
            report, fresh[run.path] = _checked(run, here, amount)
        except UserError as cause:
            sys.stderr.write(f"warning: {printable(cause)}\n")
            failed = True
            continue
        with suppress(UserError):  # evidence that only reads: the board has the verdict at hand
            store(run, fresh[run.path])
        state = "verified" if report.verified else "not verified"
        sys.stdout.write(f"{state} ({report.level}), {len(report.problems)} problems: {printable(run.path)}\n")
        failed = failed or bool(report.problems)
    return fresh, failed


def _checked(run: RunFolder, each: Sequence["Local"], amount: "Amount | None") -> tuple["Report", Verdict]:
    """Return the verdict about a run with the first network that is its own.

    Raises:
        UserError: none of them is, or the run cannot be checked.
    """
    from gauntlet.verification.verify import checked_verdict

    for local in each[:-1]:
        with suppress(UserError):
            return checked_verdict(run, local, amount)
    return checked_verdict(run, each[-1], amount)

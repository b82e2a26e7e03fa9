"""`gauntlet board`: build the leaderboard; with --verify, check every run first. Imports torch for that alone."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gauntlet.errors import UserError, printable
from gauntlet.evidence.run_folder import find_runs
from gauntlet.evidence.verdict import Verdict
from gauntlet.leaderboard.__main__ import parser, show


def main(words: Sequence[str] | None = None) -> int:
    """Build the site; return the exit status: that of `gauntlet.leaderboard`, and 1 where --verify finds problems."""
    reader = parser()
    reader.add_argument("--verify", action="store_true", help="check every finished run while the board is built")
    reader.add_argument("--replay", metavar="N", help="with --verify: re-run N samples of each run, or a share (5%%)")
    reader.add_argument("--full", action="store_true", help="with --verify: re-run all samples of each run")
    reader.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package that runs may call")
    reader.add_argument("--env", action="append", default=[], metavar="NAME", help="a variable that runs may read")
    options = reader.parse_args(words)
    if not options.verify:
        if options.replay or options.full:
            reader.error("--replay and --full go with --verify")
        return show(options.runs, options.out, floor=options.floor)
    try:
        fresh, failed = _verdicts(options.runs, options.replay, options.full, options.trust, options.env)
    except UserError as mistake:
        sys.stderr.write(f"error: {printable(mistake)}\n")
        return 2
    return show(options.runs, options.out, fresh, options.floor) or int(failed)


def _verdicts(
    runs: Path, replay: str | None, full: bool, trust: Sequence[str], env: Sequence[str]
) -> tuple[dict[Path, Verdict], bool]:
    """Return the verdicts about the finished runs, and whether one has problems or could not be checked."""
    from gauntlet.verification.rebuild import Local
    from gauntlet.verification.sampling import EVERYTHING, Amount
    from gauntlet.verification.verify import checked_verdict, store

    amount = EVERYTHING if full else Amount.of(replay) if replay else None
    fresh: dict[Path, Verdict] = {}
    failed = False
    for run in find_runs(runs):
        try:
            if run.manifest()["status"] == "running":
                continue
            report, fresh[run.path] = checked_verdict(run, Local(trust, env), amount)
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

"""`gauntlet board [--runs runs] [--out leaderboard/site]`: build the static site from the evidence."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gauntlet.errors import UserError, printable
from gauntlet.leaderboard.build import build
from gauntlet.leaderboard.certificates import CertificateVerdict
from gauntlet.leaderboard.entry import Board
from gauntlet.leaderboard.formatting import percent
from gauntlet.leaderboard.ranking_floor import FLOORS
from gauntlet.leaderboard.verification_state import NO_VERDICTS, Fresh


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the site; return the exit status: 0; 2 after one line about what the user can fix; 1 where attacks
    contradict certificates."""
    options = parser().parse_args(arguments)
    return show(options.runs, options.out, floor=options.floor)


def parser() -> argparse.ArgumentParser:
    """Return what reads the options."""
    found = argparse.ArgumentParser("gauntlet board", description="Build the leaderboard from the run folders.")
    found.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="the evidence (default: runs)")
    found.add_argument(
        "--out",
        type=Path,
        default=Path("leaderboard/site"),
        metavar="DIR",
        help="the site (default: leaderboard/site)",
    )
    found.add_argument(
        "--floor",
        choices=FLOORS,
        default="standard",
        help="what an entry must have withstood to be ranked: standard (gauntlet or AutoAttack on every head, with "
        "their default effort), verified (the same, by a verified run) or any attack",
    )
    return found


def show(runs: Path, out: Path, fresh: Fresh = NO_VERDICTS, floor: str = "standard") -> int:
    """Build the site and print what it says; return the exit status. fresh, floor: as of `build`."""
    try:
        built = build(runs, out, fresh, floor)
    except UserError as mistake:
        print(f"error: {printable(mistake)}", file=sys.stderr)  # noqa: T201 - the command's output
        return 2
    for line in built.damaged:
        print(f"warning: {printable(line)}", file=sys.stderr)  # noqa: T201
    for board in built.boards:
        print(printable(_summary(board)))  # noqa: T201
    hint = "" if built.boards else " (no runs yet; the page says how to make the first)"
    print(f"board: {out / 'index.html'}{hint}")  # noqa: T201
    for verdict in built.certificates:
        if verdict.broken:
            print(f"CONTRADICTION: {printable(_against(verdict))}", file=sys.stderr)  # noqa: T201
    return int(any(verdict.broken for verdict in built.certificates))


def _against(verdict: CertificateVerdict) -> str:
    first = verdict.contradictions[0]
    return (
        f"{verdict.samples} samples are certified by {verdict.claims.place} and broken within their radius, "
        f"{verdict.allowed} may be; first: sample {first.sample}, certified at {first.radius:.6g}, broken at "
        f"{first.distance:.6g} by {first.attack}"
    )


def _summary(board: Board) -> str:
    best = board.entries[0]
    count = f"{len(board.entries)} {'entry' if len(board.entries) == 1 else 'entries'}"
    low, high = (f"{100 * end:.1f}" for end in best.interval)
    lead = f"best {best.defense} {percent(best.robust, best.n)} % [{low}, {high}]" if best.rank else "none ranked yet"
    if not best.rank and board.floor and any("below the floor" in why for e in board.entries for why in e.reasons):
        lead += f"; a rank needs {board.floor}"
    return f"{board.data.name} {board.threat.norm} {board.eps}, n = {best.n:,}: {count}, {lead}"


if __name__ == "__main__":
    sys.exit(main())

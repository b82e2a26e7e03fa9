"""What commands that read the leaderboard's tables have in common: the runs folder, the floor, and warnings."""

import argparse
import sys
from pathlib import Path

from gauntlet.errors import printable
from gauntlet.leaderboard.build import scored
from gauntlet.leaderboard.entry import Board
from gauntlet.leaderboard.ranking_floor import FLOORS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder of runs and the floor of its tables to a command."""
    parser.add_argument("runs", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="(default: runs)")
    parser.add_argument(
        "--floor",
        choices=FLOORS,
        default=FLOORS[0],
        help="what an entry must have faced to be ranked (as of the board)",
    )


def tables(options: argparse.Namespace) -> list[Board]:
    """Return the tables of the runs that were named; files that cannot be read are named on standard error.

    Raises:
        UserError: there is no such folder.
    """
    boards, damaged = scored(options.runs, options.floor)
    for line in damaged:
        sys.stderr.write(f"warning: {printable(line)}\n")
    return boards

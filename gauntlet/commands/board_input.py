"""What commands that read the leaderboard's tables have in common: the runs, the floor, and warnings."""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from gauntlet.errors import printable
from gauntlet.leaderboard.build import scored
from gauntlet.leaderboard.certificates import CertificateVerdict, Claims, certified, verdicts
from gauntlet.leaderboard.collect import discover
from gauntlet.leaderboard.entry import Board
from gauntlet.leaderboard.ranking_floor import FLOORS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folders of runs and the floor of their tables to a command."""
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="RUN", help="a run, or a folder of runs (default: runs)"
    )
    parser.add_argument(
        "--floor",
        choices=FLOORS,
        default=FLOORS[0],
        help="what an entry must have faced to be ranked (as of the board)",
    )


@dataclass(frozen=True)
class RunSelection:
    """The runs that a command was given."""

    folders: tuple[Path, ...]
    floor: str

    @classmethod
    def of(cls, options: argparse.Namespace) -> "RunSelection":
        """Return what the options name."""
        folders = tuple(options.folders) or (Path("runs"),)
        return cls(folders if len(folders) == 1 else tuple(map(Path.absolute, folders)), options.floor)

    def __str__(self) -> str:
        return ", ".join(map(str, self.folders))

    @property
    def root(self) -> Path:
        """Return the folder that holds them all, from which places are told."""
        return self.folders[0] if len(self.folders) == 1 else Path(os.path.commonpath(self.folders))

    def tables(self) -> list[Board]:
        """Return their tables; files that cannot be read are named on standard error.

        Raises:
            UserError: there is no such folder.
        """
        boards, damaged = scored(self.root, self.floor, self.folders)
        for line in damaged:
            sys.stderr.write(f"warning: {printable(line)}\n")
        return boards

    def claims(self) -> tuple[list[Claims], list[str]]:
        """Return their certificate runs, and a line for each that cannot be read."""
        return certified(self.root, folders=self.folders)

    def certificates(self) -> tuple[list[CertificateVerdict], list[str]]:
        """Return the certificates beside the attacks on the same samples, and a line for each that cannot be read."""
        claims, unread = self.claims()
        return verdicts(claims, discover(self.root, self.folders).runs), unread

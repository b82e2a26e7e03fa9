"""The runs below some folders, those of one victim together: how the commands on distances begin and end."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gauntlet.errors import OtherKind, UserError, left_out
from gauntlet.evidence.run_folder import find_runs
from gauntlet.metrics.perturbation_size import Distances, read
from gauntlet.metrics.robustness_curve import groups
from gauntlet.system.atomic_file import write_atomically

Group = Sequence[Distances]
"""Runs of one victim, data set and norm on the same images."""


class VictimGroups(NamedTuple):
    """What the folders hold.

    Attributes:
        together: runs of attacks, by victim, data set and norm.
        unfit: why a run cannot be used.
        others: number of runs of another kind.
    """

    together: list[list[Distances]]
    unfit: list[UserError]
    others: int

    @classmethod
    def below(cls, folders: Sequence[Path]) -> "VictimGroups":
        """Return the runs in or below folders. Raises UserError where there are none."""
        found = list(_read(folders))
        together = groups([each for each in found if isinstance(each, Distances)])
        return cls(together, [each for each in found if isinstance(each, UserError)], found.count(None))

    def show(self, reports: Sequence[str], wanted: str) -> int:
        """Print the reports, and what was left out; return the exit status, 1 without a report or with a bad run.

        Args:
            reports: one for each victim.
            wanted: what to name instead, where all runs are of another kind.
        """
        for why in self.unfit:
            sys.stderr.write(f"left out: {why}\n")
        sys.stderr.write(left_out(self.others, "" if reports else f"; name {wanted}"))
        sys.stdout.write("\n\n".join(reports) + ("\n" if reports else ""))
        return 1 if self.unfit or not reports else 0


def parser(command: str, about: str, data: bool = True) -> argparse.ArgumentParser:
    """Return the options that the commands share: the folders, and a file for the data where there are any."""
    made = argparse.ArgumentParser(prog=f"gauntlet {command}", description=about)
    made.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of runs")
    if data:
        made.add_argument("--csv", type=Path, metavar="FILE", help="write the curves as data")
    return made


def answered(options: argparse.Namespace, answer: Callable[[VictimGroups], int]) -> int:
    """Return the exit status of a command's answer to the runs in `options.folders`; an error is one line."""
    try:
        return answer(VictimGroups.below(options.folders))
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1


def write_data(path: Path | None, text: str) -> None:
    """Write the curves as data where a file is named. Raises UserError where it cannot be written."""
    if path is not None:
        write_atomically(path, text.encode())


def _read(folders: Sequence[Path]) -> Iterator[Distances | UserError | None]:
    """Yield the distances of each run; None where it is of another kind and was not named itself."""
    for folder in folders:
        runs = find_runs(folder) if folder.is_dir() else []
        if not runs:
            raise UserError(f"there is no run in {folder}; make one: python run.py attack=fmn threat.eps=unbounded")
        for run in runs:
            try:
                yield read(run)
            except UserError as cause:
                yield None if isinstance(cause, OtherKind) and run.path not in folders else cause

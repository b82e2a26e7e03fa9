"""Measurements with several seeds: worked through one after the other, each kept in a file of its own, and averaged."""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gauntlet.system.atomic_file import write_atomically

Result = dict[str, Any]


Job = tuple[Path, Callable[[], Result]]
"""The file of a result, and what makes it."""


def work_through(jobs: Iterable[Job], minutes: float, told: Callable[[Result], str]) -> None:
    """Make what is missing and write each result to its file, until the time is up; the same call goes on.

    Args:
        jobs: made in this order.
        minutes: after which no other is begun.
        told: a result in a line.
    """
    end = time.monotonic() + 60 * minutes
    for path, make in jobs:
        if path.exists():
            continue
        if time.monotonic() > end:
            sys.stdout.write("time is up; the same command goes on\n")
            return
        result = make()
        write_atomically(path, (json.dumps(result) + "\n").encode())
        sys.stdout.write(f"{path.stem}: {told(result)}\n")
        sys.stdout.flush()


def shares(result: Result) -> str:
    """The accuracies of a result in percent; counts of passes are none."""
    return ", ".join(
        f"{key} {100 * value:.1f}" for key, value in result.items() if isinstance(value, float) and key != "passes"
    )


def interval(values: list[float]) -> str:
    """Mean and half width of the 95 % interval of Student over seeds, in points; nothing of none."""
    if not values:
        return ""
    mean = 100 * statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    from scipy.stats import t

    half = 100 * statistics.stdev(values) / math.sqrt(len(values)) * float(t.ppf(0.975, len(values) - 1))
    return f"{mean:.1f} ± {half:.1f}"


def add_options(parser: argparse.ArgumentParser, folder: str) -> None:
    """Where results are, where public data are, how many seeds, how long, and which of the questions."""
    parser.add_argument("--out", type=Path, default=Path(folder))
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--only", nargs="+", default=[])

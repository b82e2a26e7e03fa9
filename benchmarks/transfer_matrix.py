"""Who fools whom among the shipped networks: `python -m benchmarks.transfer_matrix` prints the table of its page.

Each defense is a source and a target. Every attack crafts once, for all targets; what is there is not done again.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gauntlet.commands import transfer_matrix

DEFENSES = {"plain": "none", "at": "adversarial_training", "trades": "trades", "smoothing": "adaptive_smoothing"}
SINGLE = ("pgd", "mi", "vmi", "di", "ti", "apgd")
TOGETHER = ("ens", "adaea")


def main(folder: str) -> int:
    """Make the runs and print the matrix."""
    _run(folder, SINGLE, list(DEFENSES), list(DEFENSES.values()))
    for target in ("plain", "at", "trades"):  # adaptive smoothing has the first two inside
        others = [name for name in ("plain", "at", "trades") if name != target]
        _run(folder, TOGETHER, others, [DEFENSES[target]])
    return transfer_matrix.main([folder, "--csv", str(Path(folder) / "matrix.csv")])


def _run(folder: str, attacks: Sequence[str], sources: Sequence[str], targets: Sequence[str]) -> None:
    surrogates = [f"+defense@surrogates.{name}={DEFENSES[name]}" for name in sources]
    command = [
        "run.py",
        "-m",
        f"attack={','.join(attacks)}",
        f"defense={','.join(targets)}",
        *surrogates,
        f"runs_dir={folder}",
    ]
    subprocess.run([sys.executable, *command, "runtime.progress=false"], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer_matrix")
    parser.add_argument("folder", nargs="?", default="runs/_transfer_matrix", help="of the runs")
    sys.exit(main(parser.parse_args().folder))

"""Who fools whom among the shipped networks: `python -m benchmarks.transfer_matrix` prints the table of its page.

Each defense is a source and a target. Every attack crafts once, for all targets; what is there is not done again.
"""

import subprocess
import sys
from pathlib import Path

from harness import transfer

DEFENSES = {"plain": "none", "at": "adversarial_training", "trades": "trades", "smoothing": "adaptive_smoothing"}
ATTACKS = ("pgd", "mi", "vmi", "di", "ti", "ni_si_ti_dim", "apgd", "ens", "svre", "adaea")


def main(folder: str = "runs/_transfer_matrix") -> int:
    """Make the runs and print the matrix."""
    sources = [f"+defense@surrogates.{name}={defense}" for name, defense in DEFENSES.items()]
    for attack in ATTACKS:
        command = [
            sys.executable,
            "run.py",
            "-m",
            f"attack={attack}",
            f"defense={','.join(DEFENSES.values())}",
            *sources,
        ]
        subprocess.run(
            [*command, f"runs_dir={folder}", "runtime.progress=false"], check=True, stdout=subprocess.DEVNULL
        )
    return transfer.main([folder, "--csv", str(Path(folder) / "matrix.csv")])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

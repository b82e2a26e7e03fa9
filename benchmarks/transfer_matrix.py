"""Who fools whom among the shipped networks: `python -m benchmarks.transfer_matrix` prints the table of its page.

Each defense is a source and a target. Every attack crafts once, for all targets; what is there is not done again.
"""

import subprocess
import sys
from pathlib import Path

from harness import transfer

DEFENSES = {"plain": "none", "at": "adversarial_training", "trades": "trades", "smoothing": "adaptive_smoothing"}
SINGLE = ("pgd", "mi", "vmi", "di", "ti", "ni_si_ti_dim", "apgd")
TOGETHER = ("ens", "svre", "adaea")


def main(folder: str = "runs/_transfer_matrix") -> int:
    """Make the runs and print the matrix."""
    for attack in SINGLE:
        _run(folder, attack, list(DEFENSES), list(DEFENSES.values()))
    for target in ("plain", "at", "trades"):  # adaptive smoothing has the first two inside
        for attack in TOGETHER:
            others = [name for name in ("plain", "at", "trades") if name != target]
            _run(folder, attack, others, [DEFENSES[target]])
    return transfer.main([folder, "--csv", str(Path(folder) / "matrix.csv")])


def _run(folder: str, attack: str, sources: list[str], targets: list[str]) -> None:
    surrogates = [f"+defense@surrogates.{name}={DEFENSES[name]}" for name in sources]
    command = ["run.py", "-m", f"attack={attack}", f"defense={','.join(targets)}", *surrogates, f"runs_dir={folder}"]
    subprocess.run([sys.executable, *command, "runtime.progress=false"], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

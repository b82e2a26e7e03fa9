"""What it costs to cut an evaluation into shards, and what a second process brings.

    python -m benchmarks.cluster overhead            # process CPU time, also where the machine is busy
    python -m benchmarks.cluster scaling             # wall time: needs two idle cores; at most three minutes

Both run `run.py attack=pgd` on the embedded digits, one thread a process; no sample leaves the attack early, so that
every chunk is the same work.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CELL = [
    "attack=pgd", "defense=trades", "threat.eps=1e-4", "dataset.limit=320", "runtime.chunk=40",
    "runtime.progress=false", "runtime.threads=1",
]  # fmt: skip
"""Eight chunks of forty images, none of which is broken."""


def start(runs: Path, steps: int, shards: int, shard: int) -> "subprocess.Popen[bytes]":
    words = [f"runs_dir={runs}", f"attack.steps={steps}", f"runtime.shards={shards}", f"runtime.shard={shard}"]
    return subprocess.Popen([sys.executable, "run.py", *CELL, *words], cwd=ROOT, stdout=subprocess.DEVNULL)


def processor_seconds(process: "subprocess.Popen[bytes]") -> float:
    """Waits for its end; user and system time."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit("error: a run failed")
    return usage.ru_utime + usage.ru_stime


def wall_seconds(runs: Path, steps: int, processes: int) -> float:
    """Of processes that start at once, each on a run of its own, all of the same size."""
    begun = time.monotonic()
    at_work = [start(runs / str(number), steps, 1, 0) for number in range(processes)]
    for process in at_work:
        processor_seconds(process)
    return time.monotonic() - begun


def overhead(folder: Path, steps: int, shards: int) -> None:
    """One process for all against one for each shard, and a shard that finds all done."""
    whole = processor_seconds(start(folder / "whole", steps, 1, 0))
    parts = [processor_seconds(start(folder / "parts", steps, shards, shard)) for shard in range(shards)]
    nothing = processor_seconds(start(folder / "parts", steps, shards, 0))
    extra = (sum(parts) - whole) / (shards - 1)
    write(f"one process                    {whole:8.2f} CPU s")
    write(
        f"{shards} shards, in all               {sum(parts):8.2f} CPU s   {', '.join(f'{part:.2f}' for part in parts)}"
    )
    write(f"a shard with nothing to do     {nothing:8.2f} CPU s")
    write(f"each further shard costs       {extra:8.2f} CPU s = {extra / 60:.1%} of a shard of one minute")


def scaling(folder: Path, steps: int, rounds: int) -> None:
    """One and two processes in turn, each with the same work."""
    pairs = []
    for number in range(rounds):
        alone = wall_seconds(folder / f"{number}-one", steps, 1)
        both = wall_seconds(folder / f"{number}-two", steps, 2)
        pairs.append(2 * alone / both)
        write(f"one {alone:6.1f} s   two side by side {both:6.1f} s   throughput x {pairs[-1]:.3f}")
    write(f"1 -> 2 processes: x {sum(pairs) / len(pairs):.3f} (target 1.9; load was {os.getloadavg()[2]:.1f})")


def write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster")
    parser.add_argument("what", choices=("overhead", "scaling"))
    parser.add_argument("--steps", type=int, help="of PGD; default: 800 for overhead, 2,200 for scaling")
    parser.add_argument("--shards", type=int, default=4, help="of overhead")
    parser.add_argument("--rounds", type=int, default=2, help="of scaling")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "overhead":
            overhead(Path(folder), given.steps or 800, given.shards)
        else:
            scaling(Path(folder), given.steps or 2200, given.rounds)


if __name__ == "__main__":
    main()

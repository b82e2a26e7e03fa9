"""How long a user waits for `--help` and for a TAB.

python -m benchmarks.start [--repeats 5]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time


def seconds(command: list[str], **environment: str) -> float:
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, env=os.environ | environment, check=True)
    assert done.stdout
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    line = "python run.py attack="
    calls = {
        "python run.py --help": ([sys.executable, "run.py", "--help"], {}),
        "TAB after attack=": (
            [sys.executable, "run.py", "-sc", "query=bash"],
            {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_CWORD": "2"},
        ),
        "python train.py --help": ([sys.executable, "train.py", "--help"], {}),
    }
    for name, (command, environment) in calls.items():
        seconds(command, **environment)  # warm
        times = [seconds(command, **environment) for _ in range(repeats)]
        sys.stdout.write(f"{name:<24} median {statistics.median(times):.2f} s, max {max(times):.2f} s\n")


if __name__ == "__main__":
    main()

"""Peak resident memory of an evaluation of 1,000 and of 10,000 images.

    python -m benchmarks.memory [--shared ../shared] [--steps 5]

Each size is one process, `python run.py` on the test file of `cifar10_jpeg` with a small public network.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def peak(shared: Path, samples: int, steps: int, runs: str) -> tuple[float, float]:
    """Peak resident MB and seconds of one evaluation."""
    command = [
        sys.executable, "run.py", "attack=pgd", f"attack.steps={steps}", "dataset=parquet",
        f"dataset.path={shared}/data/cifar10_jpeg", "dataset.name=cifar10_jpeg",
        f"dataset.limit={samples}", "model._target_=networks.load", "+model.name=at_resnet2b", "~model.classes",
        "~model.channels", "~model.size", "~model.width", "checkpoint=included", "trusted_packages=[networks]",
        "threat.eps=2/255", "runtime.progress=false", f"runs_dir={runs}",
    ]  # fmt: skip
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": f"{shared}/models"})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"the evaluation failed with status {status}")
    return usage.ru_maxrss / 1024, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as runs:
        sizes = {n: peak(options.shared.resolve(), n, options.steps, runs) for n in (1000, 10000)}
    for samples, (megabytes, seconds) in sizes.items():
        sys.stdout.write(f"{samples:>6} images: peak resident {megabytes:7.1f} MB, {seconds:6.1f} s\n")
    sys.stdout.write(f"growth: {sizes[10000][0] - sizes[1000][0]:.1f} MB\n")


if __name__ == "__main__":
    main()

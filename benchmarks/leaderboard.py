"""Time and peak memory of building the board from 100 runs of 1,000 samples, beside 10 runs and none.

    python -m benchmarks.leaderboard [--samples 1000] [--runs 0 10 100]

Each build is a process of its own; memory is the largest resident set that the system saw of it. The evidence is
synthetic: two attacks of two stages against every model, with an 8 x 8 adversarial example of every broken sample.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE, rows
from gauntlet.system.atomic_file import write_atomically

CHUNK = 128
ROOT = Path(__file__).resolve().parents[1]
MEASURED = """
import resource, sys, time
start = time.perf_counter()
from gauntlet.leaderboard.__main__ import main
status = main(sys.argv[1:])
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)
sys.exit(status)
"""


def write_run(root: Path, model: int, attack: str, samples: int) -> None:
    """One run against one model: about a tenth of the samples misclassified, about half of the others broken."""
    draws = np.random.default_rng([model, len(attack)])
    stages = [f"{attack}/true", f"{attack}/robust"]
    run = RunFolder(root / "digits" / "linf-8_255" / f"model_{model:03d}" / attack / "0")
    run.create(_manifest(model, attack, stages, samples))
    for chunk, start in enumerate(range(0, samples, CHUNK)):
        ids = np.arange(start, min(start + CHUNK, samples))
        fate = draws.choice(4, len(ids), p=[0.1, 0.3, 0.1, 0.5])  # wrong as it is, broken by a stage, standing
        found = ids[(fate == 1) | (fate == 2)]
        images = draws.random((2, len(found), 1, 8, 8), np.float32)
        tensors = {"sample": found, "stage": (fate[np.isin(ids, found)] - 1).astype(np.uint8)}
        tensors |= {"x": images[0], "z": np.clip(images[0] + 0.03 * np.sign(images[1] - 0.5), 0, 1)}
        write_atomically(run.adversarial_path(chunk), save(tensors, {"stages": json.dumps(stages)}))
        run.write_part(chunk, rows(_columns(ids, fate, stages)), {})


def _columns(ids: np.ndarray, fate: np.ndarray, stages: list[str]) -> dict[str, list[object]]:
    clean = [(s, CLEAN_STAGE, f == 0, 0.0, 1, 0) for s, f in zip(ids.tolist(), fate, strict=True)]
    first = [(s, stages[0], f == 1, 0.03, 100, 100) for s, f in zip(ids.tolist(), fate, strict=True) if f > 0]
    second = [(s, stages[1], f == 2, 0.03, 100, 100) for s, f in zip(ids.tolist(), fate, strict=True) if f > 1]
    sample, stage, broken, distance, forwards, backwards = zip(*(clean + first + second), strict=True)
    count, fell = len(sample), [bool(b) for b in broken]
    return {
        "sample": list(sample),
        "stage": list(stage),
        "label": [1] * count,
        "clean_pred": [1] * count,
        "pred": [2 if b else 1 for b in fell],
        "broken": list(fell),
        "distance": list(distance),
        "margin": [0.0] * count,
        "forwards": list(forwards),
        "backwards": list(backwards),
        "zero_gradients": [0] * count,
        "bad_gradients": [0] * count,
        "error": [None] * count,
    }


def _manifest(model: int, attack: str, stages: list[str], samples: int) -> Manifest:
    name = {"dataset": "digits", "threat": "linf-8_255", "defense": f"model_{model:03d}", "attack": attack}
    return Manifest(
        schema_version=1,
        status="done",
        kind="attack",
        name=name,
        command=f"python run.py attack={attack}",
        config_hash="0" * 12,
        weights={},
        commit="",
        dirty=False,
        versions={},
        device="cpu",
        started="2026-01-01T00:00:00Z",
        finished="2026-01-01T00:00:00Z",
        failures=[],
        card={},
        seed=0,
        cost={},
        flags=[],
        config={"attack": {"steps": 100}},
        victim=f"sha256:{model}",
        threat={"norm": "linf", "eps": "8/255", "radius": 8 / 255, "low": 0.0, "high": 1.0},
        heads="declared",
        dataset={"name": "digits", "digest": "sha256:0", "selection": "all", "samples": samples},
        stages=[CLEAN_STAGE, *stages],
        chunk=CHUNK,
        chunks=-(-samples // CHUNK),
    )


def measure(runs: Path, out: Path) -> tuple[float, float]:
    """Seconds and MiB of one build in a process of its own."""
    command = [sys.executable, "-c", MEASURED, "--runs", str(runs), "--out", str(out)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    seconds, peak = done.stderr.split()[-2:]
    return float(seconds), float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--runs", type=int, nargs="+", default=[0, 10, 100])
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {options.samples:,} samples a run\n")  # noqa: T201
    print("| runs | entries | seconds | peak MiB | site MiB |\n|---:|---:|---:|---:|---:|")  # noqa: T201
    for count in options.runs:
        with tempfile.TemporaryDirectory() as folder:
            runs, out = Path(folder, "runs"), Path(folder, "site")
            runs.mkdir()
            for number in range(count):
                write_run(runs, number // 2, ("pgd", "pma")[number % 2], options.samples)
            seconds, peak = measure(runs, out)
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20
        print(f"| {count} | {-(-count // 2)} | {seconds:.1f} | {peak:.0f} | {size:.1f} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()

"""What branch and bound decides of the images that alpha-CROWN and all attacks leave open on the public networks.

    python -m benchmarks.branch_and_bound run [--model NAME ...] [--first 30 | --sample N ...] [--seconds 60]
    python -m benchmarks.branch_and_bound table

Open images are those that `python -m benchmarks.bounds run` did not prove and `python -m benchmarks.gauntlet run` did
not break, below --bounds and --attacked. `run` takes the first of them, goes on where it stopped, and gives each image
that much processor time for the search. With --sample these images are taken, whatever is known of them.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.public import NETWORKS, images_of, network_of
from gauntlet.certification.branch_and_bound import BranchAndBound
from gauntlet.certification.certifier import Work
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Victim, plain

MODELS = ("mnist_natural", "pgd_convsmall", "at_resnet2b", "natural_small")
EVER = 10**9


def open_images(options: argparse.Namespace, name: str) -> list[int]:
    rows = pd.read_parquet(Path(options.bounds) / f"{name}-alpha_crown-20-0.parquet")
    broken: set[int] = set()
    for file in sorted(Path(options.attacked).glob(f"{name}-*.parquet")):
        found = pd.read_parquet(file, columns=["sample", "broken"])
        broken |= set(found[found["broken"]]["sample"])
    return [int(sample) for sample in rows[rows["right"] & ~(rows["margin"] > 0)]["sample"] if sample not in broken]


def run(options: argparse.Namespace) -> None:
    for name in options.model or MODELS:
        path, module, (data, threat) = _file(options, name), network_of(name), NETWORKS[name]
        batch, victim = images_of(data, 0, options.samples), Victim(plain(module), ())
        left = options.sample or open_images(options, name)
        certifier = BranchAndBound(
            domains=EVER, easy=options.easy, split_steps=options.steps, inner_steps=options.inner_steps,
            seconds=options.seconds,
        )  # fmt: skip
        done = pd.read_parquet(path) if path.exists() else pd.DataFrame({"sample": []})
        for sample in options.sample or left[: options.first]:
            if sample in set(done["sample"]):
                continue
            rng, begun = Rng(0, torch.tensor([sample]), "certificate"), time.process_time()
            x, y = batch.x[sample : sample + 1], batch.y[sample : sample + 1]
            with torch.no_grad():
                found = certifier(victim, x, y, threat=threat, rng=rng, work=Work())
            row = {"sample": sample, "why": found.stop[0], "margin": float(found.margin), "open": len(left)}
            row["seconds"] = time.process_time() - begun
            done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            done.to_parquet(path)
            sys.stdout.write(f"{name} {row}\n")
            sys.stdout.flush()


def _file(options: argparse.Namespace, name: str) -> Path:
    return Path(options.out) / f"{name}-{options.seconds:g}-{options.inner_steps}.parquet"


def table(options: argparse.Namespace) -> Iterator[str]:
    yield (
        "| network | open to alpha_crown and attacks | of these tried | proven | broken | still open "
        "| s per image: median | most for a decision |"
    )
    yield "|---" * 8 + "|"
    for name in options.model or MODELS:
        if not (path := _file(options, name)).exists():
            continue
        rows = pd.read_parquet(path)
        proven, broken = (rows["why"] == word for word in ("proven", "broken"))
        settled = rows[proven | broken]
        yield (
            f"| {name} | {int(rows['open'].iloc[0])} | {len(rows)} | {proven.sum()} | {broken.sum()} "
            f"| {len(rows) - len(settled)} | {rows['seconds'].median():.1f} | {settled['seconds'].max():.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--model", nargs="*")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--sample", type=int, nargs="*")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--easy", type=int, default=500)
    parser.add_argument("--inner-steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/_branch_and_bound"))
    parser.add_argument("--bounds", type=Path, default=Path("runs/_bounds"))
    parser.add_argument("--attacked", type=Path, default=Path("runs/_gauntlet"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "run":
        run(options)
    else:
        sys.stdout.write("\n".join(table(options)) + "\n")


if __name__ == "__main__":
    main()

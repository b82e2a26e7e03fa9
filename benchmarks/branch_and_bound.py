"""What branch and bound decides of the images that alpha-CROWN and all attacks leave open on the public networks.

    python -m benchmarks.branch_and_bound run [--model NAME ...] [--first 30] [--seconds 60] [--inner-steps 0]
    python -m benchmarks.branch_and_bound table

Open images are those that `python -m benchmarks.bounds run` did not prove and `python -m benchmarks.gauntlet run` did
not break, below --bounds and --attacked. `run` takes the first of them, goes on where it stopped, and gives each image
that much processor time for the search.
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
from gauntlet.certification.branch_and_bound import fall
from gauntlet.certification.crown.branch_and_bound import Budget, problem_of, search
from gauntlet.certification.crown.graph_tracing import trace
from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.margin_bounds import Effort, Network, comparisons, prove
from gauntlet.certification.linear_bounds import ProofTask
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
        batch, left = images_of(data, 0, options.samples), open_images(options, name)
        network = Network.of(trace(module, (module,), tuple(batch.x.shape[1:])))
        done = pd.read_parquet(path) if path.exists() else pd.DataFrame({"sample": []})
        budget = Budget(EVER, options.steps, 3, 16, options.seconds)
        for sample in left[: options.first]:
            if sample in set(done["sample"]):
                continue
            task = ProofTask(
                Victim(plain(module), (module,)), threat, Rng(0, torch.tensor([sample]), "certificate"),
                batch.x[sample : sample + 1], batch.y[sample : sample + 1],
            )  # fmt: skip
            begun, region = time.process_time(), legal(threat, task.x)
            with torch.no_grad():
                proof = prove(network, region, task.y, Effort("alpha_crown", 20, options.inner_steps, 16))
                row = {"sample": sample, "why": "proven", "domains": 0, "bound": float(proof.margins.min())}
                if len(proof.open):
                    still = (proof.margins[0] <= 0).nonzero().squeeze(1)
                    rows = comparisons(task.y, network.exact.classes)[0, still]
                    problem = problem_of(network, region, proof.ranges, rows)
                    found = search(problem, proof.margins[0, still], 0.0, budget, fall(task))
                    row |= {"why": found.why, "domains": found.domains, "bound": float(found.bounds.min())}
            row |= {"open": len(left), "seconds": time.process_time() - begun}
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
        "| s per image: median | most for a decision | parts, most for a proof |"
    )
    yield "|---" * 9 + "|"
    for name in options.model or MODELS:
        if not (path := _file(options, name)).exists():
            continue
        rows = pd.read_parquet(path)
        proven, broken = (rows["why"] == word for word in ("proven", "broken"))
        settled = rows[proven | broken]
        yield (
            f"| {name} | {int(rows['open'].iloc[0])} | {len(rows)} | {proven.sum()} | {broken.sum()} "
            f"| {len(rows) - len(settled)} | {rows['seconds'].median():.1f} | {settled['seconds'].max():.1f} "
            f"| {int(rows[proven]['domains'].max())} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--model", nargs="*")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--inner-steps", type=int, default=0)
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

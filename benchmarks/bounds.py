"""Verified accuracy of the public networks, beside what attacks leave standing.

    python -m benchmarks.bounds run [--model NAME ...] [--samples 100] [--method alpha_crown] [--seconds 60]
    python -m benchmarks.bounds table [--attacked runs/_gauntlet]

`run` goes on where it stopped and takes at most --seconds of processor time for a network. `table` compares with the
records that `python -m benchmarks.gauntlet run` left below --attacked, image by image. `--ideal` bounds the networks as
if float32 did not round.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.public import NETWORKS, images_of, network_of
from gauntlet.certification.crown.affine_layers import Affine
from gauntlet.certification.crown.graph import Graph
from gauntlet.certification.crown.graph_tracing import trace
from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.margin_bounds import METHODS, Effort, Network, prove

PIECE = 10
"""Images that are worked on together."""

PUBLISHED = {"at_resnet2b": "CROWN 26.88 %", "mnist_colt_0.1": "complete verifier 97.1 %"}
"""On all test images, where the README of the networks has a figure."""


def run(options: argparse.Namespace) -> None:
    for name in options.model or NETWORKS:
        path = _file(options, name)
        done = pd.read_parquet(path) if path.exists() else pd.DataFrame()
        network, (data, threat) = network_of(name), NETWORKS[name]
        batch = images_of(data, 0, options.samples)
        graph = trace(network, (network,), tuple(batch.x.shape[1:]))
        known = Network.of(without_rounding(graph) if options.ideal else graph)
        effort = Effort(options.method, options.steps, options.inner_steps, 16)
        spent = time.process_time()
        while len(done) < options.samples and time.process_time() - spent < options.seconds:
            at = slice(len(done), min(len(done) + PIECE, options.samples))
            x, y, begun = batch.x[at], batch.y[at], time.process_time()
            with torch.no_grad():
                right = (network(x).argmax(1) == y).nonzero().squeeze(1)
                proof = prove(known, legal(threat, x[right]), y[right], effort)
            rows = pd.DataFrame(
                {"sample": range(at.start, at.stop), "right": False, "method": -1, "margin": float("nan")}
            )
            rows.loc[right.numpy(), ["right"]] = True
            rows.loc[right.numpy(), "method"] = proof.method.numpy()
            rows.loc[right.numpy(), "margin"] = proof.margins.amin(1).numpy()
            rows["seconds"] = (time.process_time() - begun) / len(rows)
            done = pd.concat([done, rows], ignore_index=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            done.to_parquet(path)
        sys.stdout.write(f"{line(options, name, done)}\n")
        sys.stdout.flush()


def _file(options: argparse.Namespace, name: str) -> Path:
    suffix = f"{options.method}-{options.steps}-{options.inner_steps}" + "-ideal" * options.ideal
    return Path(options.out) / f"{name}-{suffix}.parquet"


def without_rounding(graph: Graph) -> Graph:
    """The network without rounding."""
    return Graph(tuple(replace(n, op=replace(n.op, terms=0)) if isinstance(n.op, Affine) else n for n in graph.nodes))


def line(options: argparse.Namespace, name: str, rows: pd.DataFrame) -> str:
    _, threat = NETWORKS[name]
    verified = rows[rows["margin"] > 0]
    by = [(verified["method"] <= number).sum() / len(rows) for number in range(len(METHODS))]
    shown = " | ".join(f"{share:.1%}" for share in by)
    standing, both = _attacked(Path(options.attacked), name, rows)
    least = verified["margin"].min()
    return (
        f"| {name} | {threat.label} | {len(rows)} | {rows['right'].mean():.1%} | {shown} | {standing} | {both} "
        f"| {least:.2g} | {rows['seconds'].mean():.2f} | {PUBLISHED.get(name, '')} |"
    )


def _attacked(folder: Path, name: str, rows: pd.DataFrame) -> tuple[str, str]:
    """Robust accuracy on these images against all attacks that were run, and the images both proven and broken."""
    files = sorted(folder.glob(f"{name}-*.parquet"))
    if not files:
        return "", ""
    broken: set[int] = set()
    for file in files:
        found = pd.read_parquet(file, columns=["sample", "broken"])
        broken |= set(found[found["broken"]]["sample"])
    standing = rows["right"] & ~rows["sample"].isin(broken)
    return f"{standing.mean():.1%}", str(int(((rows["margin"] > 0) & rows["sample"].isin(broken)).sum()))


def table(options: argparse.Namespace) -> Iterator[str]:
    yield (
        "| network | threat | images | clean | "
        + " | ".join(METHODS)
        + " | after attacks | proven and broken |"
        + (" least margin proven | s per image | published |")
    )
    yield "|---" * 13 + "|"
    for name in options.model or NETWORKS:
        if (path := _file(options, name)).exists():
            yield line(options, name, pd.read_parquet(path))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--model", nargs="*")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--method", default="alpha_crown", choices=METHODS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--inner-steps", type=int, default=0)
    parser.add_argument("--ideal", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/_bounds"))
    parser.add_argument("--attacked", type=Path, default=Path("runs/_gauntlet"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "run":
        run(options)
    else:
        sys.stdout.write("\n".join(table(options)) + "\n")


if __name__ == "__main__":
    main()

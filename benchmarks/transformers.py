"""Verified accuracy of the two public vision transformers, beside what an attack leaves standing.

    python -m benchmarks.transformers run [--model NAME ...] [--eps 1/255 ...] [--samples 50] [--method crown]
    PYTHONPATH=FOLDER_OF_AUTO_LIRPA python -m benchmarks.transformers theirs [--model NAME ...] [--eps 1/255 ...]
    python -m benchmarks.transformers table [--method crown]

The first --samples test images of `cifar10_jpeg`. `run` goes on where it stopped; it proves what is right, up to
--method, and attacks it by `pma` with its defaults. `theirs` asks CROWN of auto_LiRPA about the same images, in
float32; auto_LiRPA is no dependency of this project and is not installed by it. The networks are ONNX files:
pip install 'gauntlet-robustness[onnx]'.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.public import images_of, shared
from gauntlet.attacks.pma import PMA
from gauntlet.certification.crown.graph_tracing import trace
from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.margin_bounds import METHODS, Effort, Network, prove
from gauntlet.models.onnx_model import OnnxModel
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

NAMES = ("vit_pgd_2_3_16", "vit_ibp_3_3_8")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
RADII = ("1/1020", "1/510", "1/255")
PIECE = 5
"""Images that are worked on together."""


def network_of(name: str) -> nn.Module:
    """The network of that name, in eval mode and without gradients of its weights."""
    path = shared() / "models" / "onnx" / f"{name}.onnx"
    return OnnxModel(str(path), 10, mean=MEAN, std=STD).eval().requires_grad_(False)


def run(options: argparse.Namespace) -> None:
    for name in options.model:
        network = network_of(name)
        victim, known = Victim(plain(network), (network,)), Network.of(trace(network, (network,), (3, 32, 32)))
        batch = images_of("cifar10_jpeg", 0, options.samples)
        for eps in options.eps:
            path, threat = _file(options, name, eps), Threat("linf", eps)
            done = pd.read_parquet(path) if path.exists() else pd.DataFrame()
            while len(done) < options.samples:
                at = slice(len(done), min(len(done) + PIECE, options.samples))
                ids, x, y = batch.ids[at], batch.x[at], batch.y[at]
                begun = time.process_time()
                with torch.no_grad():
                    right = network(x).argmax(1) == y
                    effort = Effort(options.method, options.steps, 0, 16)
                    proof = prove(known, legal(threat, x[right]), y[right], effort)
                spent = time.process_time() - begun
                head = CountedHead(victim.heads[0], victim.predict, Counts.of(ids[right]))
                z = PMA()(head, x[right], y[right], threat=threat, rng=Rng(0, ids[right], "pma"))
                rows = pd.DataFrame({"sample": range(at.start, at.stop), "right": right.numpy(), "method": -1})
                rows = rows.assign(margin=float("nan"), broken=False, seconds=spent / max(1, int(right.sum())))
                rows.loc[right.numpy(), "method"] = proof.method.numpy()
                rows.loc[right.numpy(), "margin"] = proof.margins.amin(1).numpy()
                rows.loc[right.numpy(), "broken"] = (network(z).argmax(1) != y[right]).numpy()
                done = pd.concat([done, rows], ignore_index=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                done.to_parquet(path)
            sys.stdout.write(f"{line(name, eps, done)}\n")
            sys.stdout.flush()


def _file(options: argparse.Namespace, name: str, eps: str) -> Path:
    return Path(options.out) / f"{name}-{eps.replace('/', '_')}-{options.method}.parquet"


def line(name: str, eps: str, rows: pd.DataFrame) -> str:
    proven = rows[rows["margin"] > 0]
    by = " | ".join(str(int((proven["method"] <= number).sum())) for number in range(len(METHODS)))
    right, both = rows[rows["right"]], int((rows["broken"] & (rows["margin"] > 0)).sum())
    return (
        f"| {name} | {_shown(eps)} | {len(rows)} | {len(right)} | {by} | {int((~right['broken']).sum())} | {both} "
        f"| {right['margin'].median():.2f} | {right['seconds'].mean():.2f} |"
    )


def _shown(eps: str) -> str:
    return f"{float(Fraction(eps) * 255):.2g}/255"


def theirs(options: argparse.Namespace) -> None:
    for name in options.model:
        network, batch = network_of(name), images_of("cifar10_jpeg", 0, options.samples)
        with torch.no_grad():
            right = network(batch.x).argmax(1) == batch.y
        x, y = batch.x[right], batch.y[right]
        for eps in options.eps:
            begun = time.process_time()
            margins = torch.cat([_their_margins(network, x[[i]], y[[i]], float(Fraction(eps))) for i in range(len(x))])
            proven = int((margins > 0).all(1).sum())
            spent = (time.process_time() - begun) / len(x)
            median = float(margins.amin(1).median())
            sys.stdout.write(f"| {name} | {_shown(eps)} | {len(x)} | {proven} | {median:.2f} | {spent:.2f} |\n")
            sys.stdout.flush()


def _their_margins(network: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    eye = torch.eye(10)
    rows = torch.stack([eye[c] - eye[[k for k in range(10) if k != c]] for c in y.tolist()])
    ball = PerturbationLpNorm(norm=float("inf"), x_L=(x - eps).clamp(0, 1), x_U=(x + eps).clamp(0, 1))
    bounded = BoundedModule(network, torch.empty_like(x), bound_opts={"conv_mode": "matrix"})
    with torch.no_grad():
        found, _ = bounded.compute_bounds(x=(BoundedTensor(x, ball),), C=rows, method="CROWN", bound_upper=False)
    return torch.as_tensor(found)


def table(options: argparse.Namespace) -> Iterator[str]:
    yield (
        f"| network | eps | images | right | {' | '.join(METHODS)} | after PMA | proven and broken "
        "| median least margin | s per right image |"
    )
    yield "|---" * (8 + len(METHODS)) + "|"
    for name in options.model:
        for eps in options.eps:
            if (path := _file(options, name, eps)).exists():
                yield line(name, eps, pd.read_parquet(path))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("run", "theirs", "table"))
    parser.add_argument("--model", nargs="*", default=NAMES)
    parser.add_argument("--eps", nargs="*", default=RADII)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--method", default="crown", choices=METHODS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/_transformers"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.what == "table":
        sys.stdout.write("\n".join(table(options)) + "\n")
    else:
        (run if options.what == "run" else theirs)(options)


if __name__ == "__main__":
    main()

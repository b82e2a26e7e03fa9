"""Success against queries of the attacks without gradients, on two public networks.

    python -m benchmarks.black_box [--samples 200] [--queries 2000] [--network NAME ...] [--attack NAME ...]

The networks and their images are looked for in the folder named by GAUNTLET_SHARED, or in ../shared. Each attack is
given what it needs and no more. Samples are those that the network gets right. A query is a forward pass for one
sample; the clean prediction is the first. `foolbox_hsj` is HopSkipJump of Foolbox, where that is installed, on a model
that counts: the first question within eps that fools the network is a success, as it is with ours. It attacks one
sample at a time, so that none waits for another.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.relatives import images, network_of
from gauntlet.attacks.black_box.hop_skip_jump import HopSkipJump
from gauntlet.attacks.black_box.rays import RayS
from gauntlet.attacks.black_box.square import Square
from gauntlet.data.dataset import Batch
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.metrics.query_curve import CLEAN_CHECK, Curve
from gauntlet.threat_model.attack import Attack
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

NETWORKS = {"mnist_natural": ("mnist_test", "0.1"), "pgd_convsmall": ("cifar10_jpeg", "2/255")}
OURS: dict[str, Callable[[int], Attack]] = {
    "square": lambda queries: Square(queries=queries),
    "rays": lambda queries: RayS(queries=queries),
    "hop_skip_jump": lambda queries: HopSkipJump(queries=queries),
}
LEVELS = (100, 500, 1000, 2000, 5000)


def ours(network: nn.Module, attack: Attack, threat: Threat, batch: Batch) -> Curve:
    victim = Victim(plain(network), (network,))
    run = Evaluation(victim, ("attack", attack), threat, 10, batch_size=250, access=attack.needs)
    rows = evaluate_chunk(run, batch).rows.to_pandas()
    rows = rows[rows["stage"] != "clean"]
    return Curve(rows["forwards"].to_numpy() + CLEAN_CHECK, rows["broken"].to_numpy())


class Spent(Exception):
    """The budget is used up."""


class Counting(nn.Module):
    """A network that notes at which question each sample of a fixed batch was first broken within eps."""

    def __init__(self, network: nn.Module, x: Tensor, y: Tensor, threat: Threat, limit: int) -> None:
        super().__init__()
        self.network, self.x, self.y, self.threat, self.limit = network, x, y, threat, limit
        self.asked, self.first = 0, torch.full((len(x),), -1)

    def forward(self, z: Tensor) -> Tensor:
        if self.asked == self.limit or bool((self.first >= 0).all()):
            raise Spent
        assert len(z) == len(self.x)
        scores: Tensor = self.network(z)
        self.asked += 1
        found = (scores.argmax(1) != self.y) & self.threat.contains(z, self.x) & (self.first < 0)
        self.first[found] = self.asked
        return scores


def foolbox(network: nn.Module, threat: Threat, batch: Batch, queries: int) -> Curve:
    """Raises ImportError where Foolbox is not installed."""
    import eagerpy
    import foolbox

    torch.manual_seed(0)
    right = network(batch.x).argmax(1) == batch.y
    x, y = batch.x[right], batch.y[right]
    first = []
    for at in torch.arange(len(x)).split(1):  # type: ignore[no-untyped-call]
        counting = Counting(network, x[at], y[at], threat, queries)
        model = foolbox.PyTorchModel(counting.eval(), bounds=(0, 1))
        attack = foolbox.attacks.HopSkipJumpAttack(steps=1000, constraint=threat.norm)
        with contextlib.suppress(Spent, ValueError):  # the budget is used up; there is no start
            attack.run(model, eagerpy.astensor(x[at]), foolbox.Misclassification(eagerpy.astensor(y[at])))
        first.append(counting.first)
    found = torch.cat(first).numpy()
    return Curve(np.where(found > 0, found, queries) + CLEAN_CHECK, found > 0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--attack", nargs="+", choices=[*OURS, "foolbox_hsj"], default=[*OURS, "foolbox_hsj"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(os.environ.get("GAUNTLET_SHARED", "../shared"))
    levels = [level for level in LEVELS if level <= options.queries]
    out = sys.stdout.write
    out(
        f"success in % of the right ones of {options.samples} samples; queries of the successes; area under the curve\n"
    )
    out(f"{'network':<15}{'attack':<15}{'n':>4}" + "".join(f"{level:>7}" for level in levels))
    out(f"{'mean':>8}{'median':>8}{'area':>7}{'seconds':>9}\n")
    for name in options.network:
        data, eps = NETWORKS[name]
        network, batch, threat = network_of(folder, name), images(folder, data, options.samples), Threat("linf", eps)
        for label in options.attack:
            begun = time.process_time()
            try:
                if label in OURS:
                    found = ours(network, OURS[label](options.queries), threat, batch)
                else:
                    found = foolbox(network, threat, batch, options.queries)
            except ImportError as cause:
                out(f"{name:<15}{label:<15}not measured: {cause}\n")
                continue
            rates = "".join(f"{100 * found.at(level).success:>7.1f}" for level in levels)
            last = found.at(options.queries + CLEAN_CHECK)
            out(f"{name:<15}{label:<15}{len(found.queries):>4}{rates}{last.mean:>8.0f}{last.median:>8.0f}")
            out(f"{found.area:>7.3f}{time.process_time() - begun:>9.0f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

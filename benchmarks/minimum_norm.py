"""How near the minimum-norm attacks come, beside released code where it can be imported.

    python -m benchmarks.minimum_norm [--shared ../shared] [--samples 200] [--steps 1000] [--cases mnist_natural:l2 ...]
        [--only fmn search ...]

Peers come from adv-lib (`pip install --no-deps --target DIR adv-lib`, then PYTHONPATH=DIR); without it they are
reported as missing. Every answer, ours or theirs, is judged by one fresh float32 prediction and one distance.
"""

import argparse
import importlib.util
import math
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.fab import FAB
from gauntlet.attacks.minimum_norm.ddn import DDN
from gauntlet.attacks.minimum_norm.epsilon_search import Search
from gauntlet.attacks.minimum_norm.fmn import FMN
from gauntlet.attacks.minimum_norm.minimum_norm_loop import REFINE
from gauntlet.attacks.minimum_norm.pdpgd import PDPGD
from gauntlet.attacks.minimum_norm.sigma_zero import SigmaZero
from gauntlet.attacks.minimum_norm.warm_fmn import WarmFMN
from gauntlet.data.parquet import Parquet
from gauntlet.metrics.perturbation_size import Spread, area, nearest, optimality
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

CASES = {
    "pgd_convsmall:linf": 2 / 255, "kw_small_36px_l2:l2": 36 / 255, "mnist_natural:linf": 0.1, "mnist_natural:l2": 1.0,
    "mnist_natural:l1": 5.0, "mnist_natural:l0": 5.0,
}  # fmt: skip
"""Network and norm -> eps up to whose double the area is reported too."""

BATCH = 100


class Answer(NamedTuple):
    """Of one attack on one network: z [n, C, H, W], and means per attacked sample."""

    z: Tensor
    forwards: float
    backwards: float
    seconds: float


Attack = Callable[[nn.Module, Tensor, Tensor, str], Answer]


def ours(attack: Any) -> Attack:
    def run(network: nn.Module, x: Tensor, y: Tensor, norm: str) -> Answer:
        victim, threat, found, spent = Victim(plain(network), (network,)), Threat(norm, "unbounded"), [], []
        begun = time.perf_counter()
        for ids in torch.arange(len(x)).split(BATCH):
            counts = Counts.of(ids)
            head = CountedHead(victim.heads[0], victim.predict, counts)
            found.append(attack(head, x[ids], y[ids], threat=threat, rng=Rng(0, ids, "benchmark")))
            spent.append(counts)
        passes = [float(torch.cat([getattr(c, n) for c in spent]).double().mean()) for n in ("forwards", "backwards")]
        return Answer(torch.cat(found), *passes, time.perf_counter() - begun)

    return run


class Counted(nn.Module):
    """A network that counts the samples that pass it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.forwards, self.backwards = network, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        scores: Tensor = self.network(x)
        if scores.requires_grad:
            scores.register_hook(self._passed)
        return scores

    def _passed(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def peer(call: Callable[[nn.Module, Tensor, Tensor, float], Tensor]) -> Attack:
    def run(network: nn.Module, x: Tensor, y: Tensor, norm: str) -> Answer:
        counted, found, begun = Counted(network), [], time.perf_counter()
        p = math.inf if norm == "linf" else float(norm[1])
        for at in torch.arange(len(x)).split(BATCH):
            found.append(call(counted, x[at], y[at], p).detach())
        seconds = time.perf_counter() - begun
        return Answer(torch.cat(found), counted.forwards / len(x), counted.backwards / len(x), seconds)

    return run


def peers(norm: str, steps: int) -> dict[str, Attack]:
    """adv-lib's attacks of that norm; empty where it cannot be imported."""
    try:
        # adv-lib plots progress with visdom, which nobody asks for here.
        if "visdom" not in sys.modules and importlib.util.find_spec("visdom") is None:
            sys.modules["visdom"] = types.ModuleType("visdom")
            sys.modules["visdom"].Visdom = object  # type: ignore[attr-defined]
        from adv_lib import attacks as lib
    except ImportError as cause:
        sys.stderr.write(f"no peers: {cause}\n")
        return {}
    found = {
        "adv-lib FMN": lambda m, x, y, p: lib.fmn(m, x, y, norm=p, steps=steps),
        "adv-lib FMN, step 10": lambda m, x, y, p: lib.fmn(m, x, y, norm=p, steps=steps, α_init=10.0),
        "adv-lib PDPGD": lambda m, x, y, p: lib.pdpgd(m, x, y, norm=p, num_steps=steps),
    }
    if norm == "l2":
        found["adv-lib DDN"] = lambda m, x, y, p: lib.ddn(m, x, y, steps=steps, levels=None)
        found["adv-lib PDGD"] = lambda m, x, y, p: lib.pdgd(m, x, y, num_steps=steps)
    if norm == "l0":
        found["adv-lib sigma-zero"] = lambda m, x, y, p: lib.sigma_zero(m, x, y, num_steps=steps)
    return {name: peer(call) for name, call in found.items()}


def mine(norm: str, steps: int) -> dict[str, Attack]:
    """Ours, at no more passes than 2 `steps`."""
    few = max(1, steps - REFINE // 2)
    found: dict[str, Any] = {"fmn": FMN(steps=few)}
    if norm == "l0":
        found["sigma_zero"] = SigmaZero(steps=steps)
    else:
        found |= {"pdpgd": PDPGD(steps=few), "fab_nearest": FAB(steps=max(1, (2 * steps - REFINE - 1) // 27))}
        found["search"] = Search(APGD(steps=max(1, steps // 10 - 3)))
        first = Search(APGD(steps=max(1, steps // 50), loss="margin"))  # of ten rounds
        found["fmn_warm"] = WarmFMN(steps=max(1, few - 10 * (first.inner.steps + 2) - 2), inner=first)
    if norm == "l2":
        found["ddn"] = DDN(steps=few)
    return {name: ours(attack) for name, attack in found.items()}


def rows(network: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, steps: int, only: list[str]) -> Iterator[str]:
    """The table of one network and norm, line by line; only: these attacks, all where it is empty."""
    threat, distances, told = Threat(norm, "unbounded"), {}, {}
    right = network(x).argmax(1) == y
    for name, attack in (mine(norm, steps) | peers(norm, steps)).items():
        if only and name not in only:
            continue
        answer = attack(network, x[right], y[right], norm)
        with torch.no_grad():
            fooled = network(answer.z).argmax(1) != y[right]
        legal = threat.contains(answer.z, x[right])
        far = torch.where(fooled & legal, threat.distance(answer.z, x[right]), math.inf)
        distances[name] = np.zeros(len(x))
        distances[name][right.numpy()] = far.numpy()
        told[name] = answer
        sys.stderr.write(f"{name}: median {np.median(far.numpy()):.5f}, {answer.seconds:.1f} s\n")
    best = nearest(list(distances.values()))
    limit = f"optimality to {2 * eps:.4g} | area to it"
    yield f"| attack | missed | median | mean of finds | optimality | {limit} | best on, % | F | B | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for name, d in distances.items():
        a, found, spread = told[name], d[np.isfinite(d) & (d > 0)], Spread.of(d)
        missed, median = (spread.survivors, spread.quartiles()[1]) if spread else (0, "–")
        tied = (d <= best * (1 + 1e-3)).mean()
        yield (
            f"| {name} | {missed} | {median} | {found.mean():.5g} | {optimality(d, best):.4f} | "
            f"{optimality(d, best, 2 * eps):.4f} | {area(d, 2 * eps):.5g} | {100 * tied:.0f} | {a.forwards:.0f} | "
            f"{a.backwards:.0f} | {a.seconds:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.minimum_norm")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--only", nargs="+", default=[], metavar="ATTACK", help="rows of the table; without: all")
    options = parser.parse_args()
    sys.path.insert(0, str(options.shared / "models"))
    import networks

    for case in options.cases:
        name, norm = case.split(":")
        sys.stderr.write(f"{case}\n")
        folder, channels, size = ("mnist_test", 1, 28) if name.startswith("mnist") else ("cifar10_jpeg", 3, 32)
        path = str(options.shared / "data" / folder)
        split = Parquet(path=path, channels=channels, size=size, limit=options.samples).split("test")
        batch = split.read(slice(0, options.samples))
        network = networks.load(name).eval().requires_grad_(False)
        sys.stdout.write(f"\n**{name}, {norm}**\n\n")
        for line in rows(network, batch.x, batch.y, norm, CASES[case], options.steps, options.only):
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""What the checks of the input gradient measure on public networks, and on models made to be caught.

    python -m benchmarks.flags [--shared ../shared]
    python -m benchmarks.flags --shipped

For each model, on the first 64 images: the four numbers of `gauntlet/sanity_checks/gradients.py`, all flags that a run
of `pgd` with 40 steps on the margin gets, and the passes that the checks take per image. The second command measures
the small networks that are shipped, on digits, in three norms at the budgets of the data set.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from gauntlet.attacks.pgd import PGD
from gauntlet.data.dataset import Batch
from gauntlet.data.digits import Digits
from gauntlet.data.parquet import Parquet
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.metrics.attack_summary import summarize
from gauntlet.models.checkpoint import load as load_weights
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.sanity_checks import from_evidence, of_victim
from gauntlet.sanity_checks.gradients import (
    MISMATCH,
    NON_MONOTONE,
    SHATTERED,
    dead_starts,
    mismatch,
    share_of_falls,
    unrelated,
)
from gauntlet.sanity_checks.probe import PROBE, Probe
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim

THREATS: dict[str, tuple[str, str | float]] = {
    "kw_base_2px": ("linf", "2/255"), "kw_deep_2px": ("linf", "2/255"), "kw_small_8px": ("linf", "8/255"),
    "kw_small_36px_l2": ("l2", "36/255"), "at_resnet2b": ("linf", "2/255"), "pgd_convsmall": ("linf", "2/255"),
    "natural_small": ("linf", "2/255"), "natural_medium": ("linf", "2/255"), "mnist_kw_0.1": ("linf", 0.1),
    "mnist_kw_0.3": ("linf", 0.3), "mnist_colt_0.1": ("linf", 0.1), "mnist_natural": ("linf", 0.1),
}  # fmt: skip
"""The public networks and the budget that goes with each."""


RECIPES = (
    "standard", "pgd_at", "pgd_at_awp", "trades", "trades_30", "mart", "fgsm_rs", "amp", "gaussian", "uniform",
)  # fmt: skip
"""Trainings of the shipped networks for digits."""


class Backwards(torch.autograd.Function):
    """The identity, whose gradient is that of other pixels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].roll(7, -1).flip(1)


class TopTenth(nn.Module):
    """k-winners-take-all: keeps the largest tenth of its inputs (arXiv 1905.10510)."""

    def forward(self, x: Tensor) -> Tensor:
        least = x.flatten(1).topk(max(1, x[0].numel() // 10), 1).values[:, -1]
        return x * (x >= least.reshape(-1, *[1] * (x.dim() - 1)))


def crafted(network: nn.Module, other: nn.Module) -> dict[str, Any]:
    """Models with hidden gradients around two networks; the second one is changed."""
    for module in other.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, TopTenth())
    return {
        "logits x 1000": lambda x: 1000 * network(x),
        "input in 8 levels": lambda x: network((x * 7).round() / 7 + 0 * x),
        "input in 33 levels": lambda x: network((x * 32).round() / 32 + 0 * x),
        "wrong backward": lambda x: network(Backwards.apply(x)),
        "ripples": lambda x: network(x + 0.02 * torch.sin(2000 * x)),
        "top tenth": other.eval(),
    }


def shipped() -> dict[str, nn.Module]:
    """Return the shipped networks for digits by the name of their recipe, and two that flags must not confuse."""
    found: dict[str, nn.Module] = {}
    for recipe in RECIPES:
        network = SmallCNN(10, 1, 8)
        load_weights(network, f"gauntlet/models/zoo/digits_small_cnn_{recipe}.safetensors")
        found[recipe] = network.eval().requires_grad_(False)
    return found


def load(shared: Path) -> ModuleType:
    """The module that builds the public networks."""
    spec = importlib.util.spec_from_file_location("networks", shared / "models" / "networks.py")
    assert spec is not None
    assert spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    return networks


def images(shared: Path, name: str) -> Batch:
    """The first images of the data set of a network."""
    folder, channels, size = ("mnist_test", 1, 28) if name.startswith("mnist") else ("cifar10_jpeg", 3, 32)
    data = Parquet(path=str(shared / "data" / folder), name=folder, channels=channels, size=size, limit=PROBE)
    batch: Batch = data.split("test").read(slice(0, PROBE))
    return batch


def measured(forward: Any, threat: Threat, batch: Batch) -> tuple[list[float], list[str], float]:
    """The numbers, the names of the flags, and forward plus backward passes of the checks per image."""
    passes = [0]

    def counting(x: Tensor, rng: Rng) -> Tensor:
        out: Tensor = forward(x)
        passes[0] += len(x) * (2 if out.requires_grad else 1)
        return out

    modules = (forward,) if isinstance(forward, nn.Module) else ()
    run = Evaluation(Victim(counting, modules), ("pgd", PGD(loss="margin")), threat, 10)
    done = evaluate_chunk(run, batch)
    with tempfile.TemporaryDirectory() as folder:
        RunFolder(Path(folder)).write_part(0, done.rows, done.seconds)
        total = summarize(RunFolder(Path(folder)), ["clean", "pgd/true"])
    rows = done.rows.to_pandas()
    standing = set(rows[(rows["stage"] == "pgd/true") & ~rows["broken"]]["sample"])
    passes[0] = 0
    flags = [flag.name for flag in (*of_victim(run, batch, standing), *from_evidence(total))]
    spent = passes[0] / len(batch.ids)
    linearity = Probe(run, batch, standing).linearity
    numbers = [
        mismatch(linearity),
        unrelated(linearity),
        share_of_falls(linearity),
        float(max(dead_starts(linearity).values())),
    ]
    return numbers, flags, spent


def _shipped(out: Callable[[str], object]) -> None:
    data = Digits()
    batch = data.split("test").read(slice(0, PROBE))
    networks = shipped()
    models: dict[str, Any] = dict(networks) | {
        "trades x 1e-20": lambda x: 1e-20 * networks["trades"](x),
        "trades, wrong backward": lambda x: networks["trades"](Backwards.apply(x)),
        "trades, 8 levels": lambda x: networks["trades"]((x * 7).round() / 7 + 0 * x),
    }
    out("| model | norm | mismatch | unrelated | falls | dead starts | flags |\n|---|---|---|---|---|---|---|\n")
    for name, model in models.items():
        for norm, eps in data.budgets.items():
            numbers, flags, _ = measured(model, Threat(norm, eps), batch)
            row = " | ".join(f"{value:.3f}" for value in numbers[:3])
            out(f"| {name} | {norm} | {row} | {numbers[3]:.0f} | {', '.join(flags) or 'none'} |\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--shipped", action="store_true", help="the shipped networks, in three norms")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = sys.stdout.write
    if options.shipped:
        _shipped(out)
        return
    shared = options.shared
    networks = load(shared)
    out(
        "| model | mismatch | unrelated | share_of_falls | dead starts | passes | flags |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    models = [(name, networks.load(name), Threat(*threat), images(shared, name)) for name, threat in THREATS.items()]
    odd = crafted(networks.load("at_resnet2b"), networks.load("natural_medium"))
    models += [(name, model, Threat("linf", "2/255"), images(shared, "cifar")) for name, model in odd.items()]
    for name, model, threat, batch in models:
        numbers, flags, spent = measured(model, threat, batch)
        row = [f"{value:.3f}" for value in numbers[:3]] + [
            f"{numbers[3]:.0f}",
            f"{spent:.0f}",
            ", ".join(flags) or "none",
        ]
        out(f"| {name} | {' | '.join(row)} |\n")
        sys.stdout.flush()
    out(f"\nthresholds: mismatch {MISMATCH}, unrelated {SHATTERED}, share_of_falls {NON_MONOTONE}, dead starts 0\n")


if __name__ == "__main__":
    main()

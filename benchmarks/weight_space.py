"""What steps after training do to networks for digits: RiFT, and robust weight signatures.

    python -m benchmarks.weight_space rift [--out runs/_effects] [--seeds 3]
    python -m benchmarks.weight_space patches

`rift` tunes each module of robust networks on clean images (the trainings PGD-AT of `benchmarks.training effects
--only weighting`, which are made where they are missing) and prints its criticality beside what that cost: test part,
the worst of PGD on cross-entropy and on the margin. `patches` adds the difference of the shipped networks `pgd_at` and
`standard` to `standard` and to `amp`: validation part, PGD of ten steps. For the record in
benchmarks/training/weight_space.md.
"""

import argparse
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.few_images import Few
from benchmarks.seeds import interval
from benchmarks.training_effects import composed, worst
from benchmarks.training_questions import effects
from gauntlet.config.validate import build
from gauntlet.models import checkpoint
from gauntlet.models.weight_arithmetic import interpolated, patched, signature
from gauntlet.training.loop import BEST, LAST
from gauntlet.training.trained_network import TrainedNetwork
from gauntlet.training.weights_cache import ZOO

out = sys.stdout.write
SHARES = (0.25, 1.0)


def _trained(part: TrainedNetwork, dataset: Few, cache: Path, name: str, **given: nn.Module) -> nn.Module:
    folder = part.train(dataset, cache, given=given, progress=False)  # type: ignore[arg-type]
    network = part.first_network()
    checkpoint.load(network, folder / name)
    return network.eval().requires_grad_(False)


def rift(folder: Path, seeds: int) -> None:
    effect, cache = effects(Path("../shared"))["weighting"], folder / "_trained"
    found: dict[str, list[list[float]]] = {}
    for seed in range(seeds):
        cfg = composed(*effect.arms["PGD-AT"], *effect.settings, f"seed={seed}")
        dataset = Few(build(cfg.dataset), effect.images)
        model, recipe = (OmegaConf.to_container(cfg[key]) for key in ("model", "recipe"))
        robust = _trained(TrainedNetwork(model, recipe, seed=seed), dataset, cache, LAST)  # type: ignore[arg-type]
        test = dataset.split("test")
        before = worst(robust, test, effect)
        out(f"seed {seed}: PGD-AT clean {before.clean:.3f} robust {before.robust:.3f}\n")
        cfg = composed("recipe=rift", f"dataset.budgets.linf={effect.eps}", f"seed={seed}")
        objective = build(cfg.recipe.objective, robust=robust)
        device = torch.device("cpu")
        measured = objective.measured(robust, dataset.split("validation"), seed, device)
        for name, criticality in measured.items():
            node = OmegaConf.to_container(cfg.recipe)
            node["objective"]["module"] = name  # type: ignore[call-overload,index]
            part = TrainedNetwork(model, node, seed=seed, uses=["robust"])  # type: ignore[arg-type]
            tuned = _trained(part, dataset, cache, BEST, robust=robust)
            row = [criticality / 100]  # `interval` writes hundredths
            for share in SHARES:
                after = worst(interpolated(robust, tuned, share), test, effect)
                row += [after.clean - before.clean, after.robust - before.robust]
            found.setdefault(name, []).append(row)
    heads = "".join(f" clean, share {share:g} | robust, share {share:g} |" for share in SHARES)
    out(f"\n| module | criticality |{heads}\n{(2 + 2 * len(SHARES)) * '|---'}|\n")
    for name, rows in found.items():
        out(f"| `{name}` | {' | '.join(interval(list(column)) for column in zip(*rows, strict=True))} |\n")


def patches() -> None:
    cfg = composed("recipe=pgd_at", "dataset=digits", "model=small_cnn")
    model, recipe = OmegaConf.to_container(cfg.model), build(cfg.recipe)
    part = TrainedNetwork(model, {})  # type: ignore[arg-type]
    split, device = build(cfg.dataset).split("validation"), torch.device("cpu")

    def shipped(name: str) -> nn.Module:
        network = part.first_network()
        checkpoint.load(network, ZOO / f"digits_small_cnn_{name}.safetensors")
        return network.eval().requires_grad_(False)

    def told(network: nn.Module) -> str:
        scores = recipe.selection.measure(network, split, 0, device, attack=True)
        return f"{100 * scores.clean:.1f}, {100 * scores.pgd:.1f}"

    standard, robust = shipped("standard"), shipped("pgd_at")
    shares = (0.25, 0.5, 0.75, 1.0)
    out("| target | difference | modules | share 0 |" + "".join(f" {share:g} |" for share in shares) + "\n")
    out((4 + len(shares)) * "|---" + "|\n")
    for name, target in (("standard", standard), ("amp", shipped("amp"))):
        for kind, first in (("whole", None), ("projected", part.first_network())):
            patch = signature(robust, standard, first)
            for modules in (None, ["stem"], ["stem", "layer1"]):
                cells = [told(target), *(told(patched(target, patch, share, modules, robust)) for share in shares)]
                out(f"| `{name}` | {kind} | {', '.join(modules) if modules else 'all'} | {' | '.join(cells)} |\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["rift", "patches"])
    parser.add_argument("--out", type=Path, default=Path("runs/_effects"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "rift":
        rift(options.out, options.seeds)
    else:
        patches()


if __name__ == "__main__":
    main()

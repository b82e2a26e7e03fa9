"""Fooling ratio of universal perturbations on test images, beside random signs of the same size.

    python -m benchmarks.universal digits [--seeds 3] [--images 1000]
    python -m benchmarks.universal natural_medium [--shared ../shared] [--seeds 1]

`digits`: the shipped networks, linf 0.15, all 359 test images. `natural_medium`: the public network of that name, linf
10/255, the first 1,000 test images of cifar10_jpeg. Fitted to train images that the seed chooses. A line for each
attack: fooling ratio and accuracy in percent for each seed, then the mean; passes and seconds are those of the last
fit.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from gauntlet.attacks.universal.spgd import SGA, SPGD
from gauntlet.attacks.universal.uap import UAP
from gauntlet.attacks.universal.universal_perturbation import Universal
from gauntlet.data.dataset import Dataset
from gauntlet.data.digits import Digits
from gauntlet.data.parquet import Parquet
from gauntlet.evaluation.universal_fit import TrainImages
from gauntlet.models import checkpoint
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain
from gauntlet.training.weights_cache import ZOO


def attacks(images: int | None, epochs: int) -> dict[str, Universal]:
    return {
        "spgd": SPGD(images=images, epochs=epochs),
        "spgd logit": SPGD(images=images, epochs=epochs, loss="logit"),
        "sga": SGA(images=images, epochs=epochs),
        "sga logit": SGA(images=images, epochs=epochs, loss="logit"),
        "uap": UAP(images=images, epochs=1),
    }


def public(shared: Path, name: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location("networks", shared / "models" / "networks.py")
    assert spec is not None
    assert spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    network: nn.Module = networks.load(name)
    return network.eval().requires_grad_(False)


def shipped(name: str) -> nn.Module:
    network = SmallCNN(classes=10, channels=1, size=8)
    checkpoint.load(network, ZOO / f"digits_small_cnn_{name}.safetensors")
    return network.eval().requires_grad_(False)


def scorer(network: nn.Module, data: Dataset) -> Callable[[Tensor], tuple[float, float]]:
    """Fooling ratio and accuracy, in percent, of a perturbation on the test images."""
    split = data.split("test")
    batch = split.read(slice(0, len(split)))

    @torch.no_grad()
    def classes(delta: Tensor | float) -> Tensor:
        return torch.cat([network((x + delta).clamp(0, 1)).argmax(1) for x in batch.x.split(250)])  # type: ignore[no-untyped-call]

    clean = classes(0.0)

    def score(delta: Tensor) -> tuple[float, float]:
        pred = classes(delta)
        return 100 * float((pred != clean).float().mean()), 100 * float((pred == batch.y).float().mean())

    return score


def fits(
    network: nn.Module, data: Dataset, threat: Threat, attack: Universal, seeds: int
) -> Iterator[tuple[Tensor, str]]:
    """The perturbation of each seed, and what it cost."""
    victim, train = Victim(plain(network), (network,)), data.split("train")
    for seed in range(seeds):
        begun = time.process_time()
        images = TrainImages.chosen(train, attack.images, seed, torch.device("cpu"))
        head = CountedHead(victim.heads[0], victim.predict, Counts.of(images.ids[:0]))
        *_, state = attack.fit(head, images, threat=threat, rng=Rng(seed, images.ids, "fit"))
        passes = f"{state.forwards:>9}{state.backwards:>9}"
        yield state.delta, f"{passes}{time.process_time() - begun:>9.0f}"


def line(name: str, scores: list[tuple[float, float]], cost: str = "") -> str:
    ratios = " ".join(f"{ratio:5.1f}" for ratio, _ in scores)
    means = [sum(column) / len(scores) for column in zip(*scores, strict=True)]
    return f"  {name:<12}{ratios:<19}{means[0]:>7.1f}{means[1]:>10.1f}{cost}\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("victims", choices=("digits", "natural_medium"))
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=20, help="of spgd and sga")
    parser.add_argument("--only", help="names of attacks, with commas between")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data: Dataset = Digits()
    threat = Threat("linf", 0.15)
    networks = {name: shipped(name) for name in ("standard", "pgd_at", "trades")}
    if options.victims == "natural_medium":
        data = Parquet(path=str(options.shared / "data" / "cifar10_jpeg"), limit=1000)
        threat = Threat("linf", "10/255")
        networks = {"natural_medium": public(options.shared, "natural_medium")}
    chosen = attacks(options.images, options.epochs)
    names = options.only.split(",") if options.only else list(chosen)
    out = sys.stdout.write
    out(f"{threat.label}, {options.images} train images, {options.epochs} epochs of spgd and sga\n")
    out("  attack      fooling %, seeds     mean  accuracy forwards backwards  seconds\n")
    for victim, network in networks.items():
        score = scorer(network, data)
        nothing = torch.zeros_like(data.split("test").read(slice(0, 1)).x[0])
        out(f"{victim}: accuracy {score(nothing)[1]:.1f} without perturbation\n")
        ids = torch.arange(options.seeds)
        signs = threat.radius * Rng(0, ids, "signs").normal(tuple(nothing.shape)).sign()
        out(line("random signs", [score(delta) for delta in signs]))
        for name in names:
            found = list(fits(network, data, threat, chosen[name], options.seeds))
            out(line(name, [score(delta) for delta, _ in found], found[-1][1]))
            sys.stdout.flush()


if __name__ == "__main__":
    main()

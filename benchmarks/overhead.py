"""Wall time of an evaluation over the bare passes that it needs, side by side in one run.

    python -m benchmarks.overhead [--batch 128] [--steps 4] [--repeats 5]

The bare loop makes the same forward and backward passes of the same network on the same images and nothing else. The
two take turns, so that drift of the machine hits both; the ratio is taken pair by pair. No sample is broken (eps is
tiny), so every pass is made by the whole batch.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.pma import PMA
from gauntlet.data.dataset import Batch
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.models.batchnorm_folding import folded
from gauntlet.models.resnet import ResNet
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain


def bare(network: nn.Module, fused: nn.Module, x: Tensor, gradients: int, forwards: int) -> None:
    """`gradients` forward and backward passes of the BN-fused copy, `forwards` forward passes of the network."""
    for _ in range(gradients):
        leaf = x.detach().requires_grad_()
        logits = fused(leaf)
        torch.autograd.grad(logits, leaf, torch.ones_like(logits))
    with torch.no_grad():
        for _ in range(forwards):
            network(x)


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = ResNet(depth=18, classes=10, channels=3).eval().requires_grad_(False)
    x = torch.rand(options.batch, 3, 32, 32)
    y = network(x).argmax(1)
    batch = Batch(torch.arange(options.batch), x, y)
    out = sys.stdout.write
    out(f"ResNet-18, 32x32, batch {options.batch}, one thread, {options.repeats} pairs, torch {torch.__version__}\n")
    for fold in (False, True):
        fused = folded(network) if fold else network
        for name, attack, gradients, ends in (
            ("pgd", PGD(steps=options.steps), options.steps, 1),
            ("pma", PMA(steps=options.steps), 2 * options.steps, 2),
        ):
            run = Evaluation(
                Victim(plain(network), (network,)), (name, attack), Threat("linf", 1e-6), 10,
                fused=Victim(plain(fused), (fused,)) if fold else None, batch_size=options.batch,
            )  # fmt: skip
            rows = evaluate_chunk(run, batch).rows.to_pandas()  # also warms up
            made = rows[rows["stage"] != "clean"]
            assert (made["backwards"] == gradients).all()
            assert (made["forwards"] == gradients + ends).all()
            needed = ends + 2  # the end points, the clean prediction and the verdict
            pairs = []
            for _ in range(options.repeats):
                whole = seconds(lambda run=run: evaluate_chunk(run, batch))  # type: ignore[misc]
                base = seconds(lambda t=fused, g=gradients, n=needed: bare(network, t, x, g, n))  # type: ignore[misc]
                pairs.append((whole, base))
            ratios = [whole / base for whole, base in pairs]
            out(
                f"{name}  fold={fold!s:<5}  bare {statistics.median(b for _, b in pairs):6.2f} s  evaluation "
                f"{statistics.median(w for w, _ in pairs):6.2f} s  ratio median {statistics.median(ratios):.3f} "
                f"(min {min(ratios):.3f}, max {max(ratios):.3f})\n"
            )


if __name__ == "__main__":
    main()

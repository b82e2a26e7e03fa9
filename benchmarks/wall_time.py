"""Wall seconds of attacks on 10,000 images: AutoAttack, PMA, CR and `gauntlet`, by turns in one process.

    python -m benchmarks.wall_time                                               # a public network, on the CPU
    python -m benchmarks.wall_time --device cuda --network wide_resnet28_10      # the shape of a WRN-28-10

A shape has random weights: its labels are what it predicts, and eps is the one at which PGD of ten steps leaves half of
its images, so that samples leave at every step, as on a trained network. Variants: `float32`; `bfloat16`, in which the
gradient passes alone are (`runtime.gradients`); `compiled`, by torch.compile for any batch size. All images are one
chunk, so that the calls of an attack share passes. Seconds are of the attacks and the judge, over the images that were
attacked, times 10,000. A run of PGD before warms up; of `compiled` each attack runs twice, and the second is timed.
"""

import argparse
import time
from typing import NamedTuple

import torch
from torch import nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.attacks import say
from benchmarks.public import NETWORKS, images_of, network_of
from benchmarks.relatives import built
from gauntlet.attacks.pgd import PGD
from gauntlet.data.dataset import Batch
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.models.wide_resnet import WideResNet
from gauntlet.threat_model.attack import Attack
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

SHAPES = {"wide_resnet28_10": (28, 10), "wide_resnet10_1": (10, 1)}
"""Name -> depth and width of networks of random weights."""

VARIANTS = ("float32", "bfloat16", "compiled")
"""In this order: a network that is compiled stays it."""


class Subject(NamedTuple):
    """A network, the images that it is attacked on, and the threat."""

    network: nn.Module
    images: Batch
    threat: Threat

    def evaluation(self, name: str, attack: Attack, batch: int, variant: str) -> Evaluation:
        """Return the evaluation of an attack by a variant."""
        gradients = torch.bfloat16 if variant == "bfloat16" else None
        victim = Victim(plain(self.network), (self.network,))
        return Evaluation(victim, (name, attack), self.threat, 10, batch_size=batch, gradients=gradients)


def on(device: torch.device, batch: Batch) -> Batch:
    return Batch(*(each.to(device) for each in batch))


def halving_eps(network: nn.Module, images: Batch, batch: int) -> Threat:
    """Return the linf threat under which PGD of ten steps leaves half of the images, to a tenth of the images."""
    low, high = 0.0, 1.0
    for _ in range(20):
        eps = (low + high) / 2
        subject = Subject(network, images, Threat("linf", eps))
        rows = evaluate_chunk(subject.evaluation("pgd", PGD(steps=10), batch, "float32"), images).rows.to_pandas()
        left = 1 - rows[rows["broken"]]["sample"].nunique() / len(images.ids)
        if abs(left - 0.5) <= 0.1:
            break
        low, high = (eps, high) if left > 0.5 else (low, eps)
    return Threat("linf", eps)


def subject_of(options: argparse.Namespace) -> Subject:
    """Return what is attacked."""
    device = torch.device(options.device)
    if options.network in NETWORKS:
        data, threat = NETWORKS[options.network]
        return Subject(network_of(options.network).to(device), on(device, images_of(data, 0, options.images)), threat)
    torch.manual_seed(0)
    depth, width = SHAPES[options.network]
    network = WideResNet(10, 3, depth, width).eval().requires_grad_(False).to(device)
    x = torch.rand(options.images, 3, 32, 32, device=device)
    y = torch.cat([network(x[at : at + options.batch]).argmax(1) for at in range(0, len(x), options.batch)])
    batch = Batch(torch.arange(options.images, device=device), x, y)
    return Subject(network, batch, halving_eps(network, batch, options.batch))


def row(subject: Subject, name: str, variant: str, options: argparse.Namespace) -> str:
    """Return the row of the table for an attack and a variant."""
    run = subject.evaluation(name, built(name, []), options.batch, variant)
    if variant == "compiled":
        evaluate_chunk(run, subject.images)
    if torch.device(options.device).type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    rows = evaluate_chunk(run, subject.images).rows.to_pandas()
    seconds = time.perf_counter() - begun
    assert rows["error"].isna().all()
    wrong = rows[rows["broken"]]["sample"].nunique()
    attacked = rows[rows["stage"] != "clean"]["sample"].nunique()
    passes = (rows["forwards"] + rows["backwards"]).sum()
    return (
        f"| {name} | {variant} | {1 - wrong / len(subject.images.ids):.1%} | {passes / attacked:.0f} | "
        f"{10_000 * seconds / attacked:.0f} | {seconds:.1f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", default="pgd_convsmall", choices=[*NETWORKS, *SHAPES])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--attack", nargs="+", default=["gauntlet", "cr", "pma", "autoattack"])
    parser.add_argument("--variant", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = subject_of(options)
    say(f"{options.network} on {options.device}, {options.images} images, batch {options.batch}, {subject.threat}\n")
    say("| attack | variant | left | passes of an attacked image | seconds for 10,000 | seconds |")
    say("|---|---|---|---|---|---|")
    for variant in options.variant:
        if variant == "compiled":
            subject.network.compile(dynamic=True)
        evaluate_chunk(subject.evaluation("pgd", PGD(steps=4), options.batch, variant), subject.images)
        for name in options.attack:
            say(row(subject, name, variant, options))


if __name__ == "__main__":
    main()

"""Adversarial examples found on a model and on the same model with its logits multiplied, in float32 and bfloat16.

    python -m benchmarks.saturation [--shared ../shared] [--samples 1000] [--factor 1000]

For each public network: robust accuracy in percent of `pgd` (ce and margin) and `pma`, on the model and on the scaled
model, in float32 and with bfloat16 gradient passes. The last row of a network is PGD on the plain softmax
cross-entropy by autograd: what saturation does to an attack without the cotangents.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.pma import PMA
from gauntlet.data.dataset import Batch
from gauntlet.data.parquet import Parquet
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.attack import Attack
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

NETWORKS = {"at_resnet2b": "2/255", "pgd_convsmall": "2/255", "kw_small_8px": "8/255"}


class Scaled(nn.Module):
    """A network whose logits are multiplied."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.factor * self.network(x)
        return logits


def robust(network: nn.Module, attack: Attack, threat: Threat, batch: Batch, dtype: torch.dtype | None) -> float:
    run = Evaluation(
        Victim(plain(network), (network,)), ("attack", attack), threat, 10, batch_size=250, gradients=dtype
    )
    rows = evaluate_chunk(run, batch).rows.to_pandas()
    return 100 * (1 - rows["broken"].sum() / len(batch.ids))


def naive(network: nn.Module, threat: Threat, batch: Batch) -> float:
    """PGD-40 by autograd of the mean cross-entropy, as it is commonly written."""
    x, y = batch.x, batch.y
    z, held = x.clone(), network(x).argmax(1) == y
    for _ in range(40):
        z.requires_grad_()
        loss = nn.functional.cross_entropy(network(z), y)
        (gradient,) = torch.autograd.grad(loss, z)
        z = threat.project(z.detach() + 0.1 * threat.radius * gradient.sign(), x)
        held &= network(z).argmax(1) == y
    return 100 * held.float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--factor", type=float, default=1000.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("networks", options.shared / "models" / "networks.py")
    assert spec is not None
    assert spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    data = Parquet(path=str(options.shared / "data" / "cifar10_jpeg"), limit=options.samples)
    batch = data.split("test").read(slice(0, options.samples))
    out = sys.stdout.write
    out(f"robust accuracy in %, first {options.samples} images of cifar10_jpeg, logits x {options.factor:g}\n")
    out(f"{'network':<16}{'attack':<12}{'float32':>9}{'scaled':>9}{'bfloat16':>10}{'scaled':>9}\n")
    attacks = {"pgd ce": PGD(), "pgd margin": PGD(loss="margin"), "pma": PMA()}
    for name, eps in NETWORKS.items():
        network, threat = networks.load(name), Threat("linf", eps)
        hot = Scaled(network, options.factor).eval()
        for label, attack in attacks.items():
            cells = [
                robust(model, attack, threat, batch, dtype)
                for dtype in (None, torch.bfloat16)
                for model in (network, hot)
            ]
            out(f"{name:<16}{label:<12}{cells[0]:>9.1f}{cells[1]:>9.1f}{cells[2]:>10.1f}{cells[3]:>9.1f}\n")
            sys.stdout.flush()
        out(f"{name:<16}{'naive ce':<12}{naive(network, threat, batch):>9.1f}{naive(hot, threat, batch):>9.1f}\n")


if __name__ == "__main__":
    main()

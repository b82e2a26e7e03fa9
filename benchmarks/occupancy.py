"""How full the passes of an attack are: calls of the network, samples in each, and reads that a device would wait for.

    python -m benchmarks.occupancy [--network NAME] [--attack NAME ...] [--samples 1000] [--batch 256]

`occupancy`: samples passed, over calls times the batch size. `calls over least`: calls over those that full batches
would need. `small`: calls of eight samples or fewer. `reads`: values that the host reads from tensors (`.item()`,
`.nonzero()`, `if tensor:`), for each call: on an accelerator each of them waits for the device.
"""

import argparse
import math
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.public import NETWORKS, images_of, network_of
from benchmarks.relatives import built
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.victim import Victim, plain

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")
"""What cannot answer before the device has."""


class Sizes(nn.Module):
    """The network, with the size of each batch that passed it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        logits: Tensor = self.network(x)
        return logits


class Reads(TorchDispatchMode):
    """Counts the reads of values."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.made += func.name().split(".")[0] in READS
        masks = [index for index in args[1] if index is not None] if func.name() == "aten::index.Tensor" else []
        self.made += any(index.dtype == torch.bool for index in masks)
        return func(*args, **(kwargs or {}))


def row(name: str, attack: str, samples: int, batch: int) -> str:
    """Return the row of the table for one attack; the clean prediction and the verdicts are among the calls."""
    data, threat = NETWORKS[name]
    network, images = Sizes(network_of(name)), images_of(data, 0, samples)
    run = Evaluation(Victim(plain(network), (network,)), (attack, built(attack, [])), threat, 10, batch_size=batch)
    with Reads() as reads:
        rows = evaluate_chunk(run, images).rows.to_pandas()
    assert rows["error"].isna().all()
    calls, passed = len(network.seen), sum(network.seen)
    small = sum(size <= 8 for size in network.seen)
    return (
        f"| {attack} | {calls} | {passed} | {passed / (calls * batch):.2f} | {calls / math.ceil(passed / batch):.2f} "
        f"| {small} | {reads.made / calls:.1f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="at_resnet2b", choices=NETWORKS)
    parser.add_argument("--attack", nargs="+", default=["pgd", "pma", "apgd", "gauntlet"])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.write(
        "| attack | calls | samples passed | occupancy | calls over least | small | reads per call |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    for attack in options.attack:
        sys.stdout.write(row(options.network, attack, options.samples, options.batch) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

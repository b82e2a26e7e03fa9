"""What an attack does between its passes: our loops and those of other libraries where no image ever falls.

    python -m benchmarks.loop [--network NAME ...] [--samples 50] [--repeats 5]

The first logit of the network is raised by 1,000 and every image is labelled with the first class, so no library can
stop early and all of them pass full batches. `overhead`: CPU seconds over the bare price of the passes that were made,
as in `benchmarks.attacks`, the best of the repeats. `operations`: calls of torch for each forward pass beyond those of
the bare passes, which no other work on the machine can change. `preact_resnet18/16` is a PreActResNet-18 of 16 instead
of 64 channels with random weights.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.attacks import Find, Row, contestants, measured, say
from benchmarks.overhead import bare
from benchmarks.public import NETWORKS, images_of, network_of
from gauntlet.models.preact_resnet import PreActResNet
from gauntlet.threat_model.threat import Threat

LARGE = "preact_resnet18/16"


class Sure(nn.Module):
    """The network, sure of the first class."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits + 1000.0 * torch.eye(logits.shape[1], dtype=logits.dtype)[0]


class Calls(TorchDispatchMode):
    """Counts the calls of torch, by whichever library."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.made += 1
        return func(*args, **(kwargs or {}))


def operations(find: Find, network: nn.Module, x: Tensor, y: Tensor, threat: Threat, row: Row) -> float:
    """Calls beyond those of the passes of a row, for each of its forward passes."""

    def calls(run: Callable[[], object]) -> int:
        with Calls() as seen:
            run()
        return seen.made

    forwards, backwards = round(row.forwards), round(row.backwards)
    needed = calls(lambda: bare(network, network, x, backwards, forwards - backwards))
    return (calls(lambda: find(network, x.clone(), y.clone(), threat)) - needed) / forwards


def network(name: str) -> nn.Module:
    if name != LARGE:
        return network_of(name)
    torch.manual_seed(0)
    return PreActResNet(10, 3, 18, 16).eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", nargs="+", default=["pgd_convsmall", "at_resnet2b", LARGE])
    parser.add_argument("--attack", nargs="+", default=["pgd", "apgd", "square", "pma"])
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    say("| network | attack | library | F | B | seconds | overhead | operations |\n|---|---|---|---|---|---|---|---|")
    for name in options.network:
        data, threat = NETWORKS["pgd_convsmall" if name == LARGE else name]
        sure, x = Sure(network(name)), images_of(data, 0, options.samples).x
        y = torch.zeros(len(x), dtype=torch.int64)
        for attack, library, _, find in contestants():
            if attack not in options.attack:
                continue
            try:
                row = measured(find, sure, x, y, threat, len(x), options.repeats)
            except ImportError as cause:
                say(f"| {name} | {attack} | {library} | {cause} |||||")
                continue
            passes = f"{row.forwards:.0f} | {row.backwards:.0f} | {row.seconds:.2f} | {row.overhead:.2f}"
            more = operations(find, sure, x[:8], y[:8], threat, row)
            say(f"| {name} | {attack} | {library} | {passes} | {more:.0f} |")


if __name__ == "__main__":
    main()

"""How full the passes of an attack are: calls of the network, samples in each, and reads that a device would wait for.

    python -m benchmarks.occupancy [--network NAME] [--attack NAME ...] [--samples 1000] [--batch 256] [--repeats 3]
                                   [--norm l1 --eps 2] [--knob attack.KEY=VALUE ...]

`occupancy`: samples passed, over calls times the batch size. `calls over least`: calls over those that full batches
would need. `longest chain`: the most forward passes of one sample, of which none can begin before the one before it
has ended: no way to fill passes needs fewer calls. `small`: calls of eight samples or fewer. `reads`: how often the
host reads tensors (`.cpu()`, `.item()`, `.nonzero()`, `if tensor:`), for each call: on an accelerator each read waits
for the device. `torch calls`: functions and methods of torch that the attack and its passes call outside of the
network, for each of its calls. Both are counted within the attack and the making of passes: the judge's tensors lie on
the host by design.
"""

import argparse
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.attacks import say
from benchmarks.public import NETWORKS, images_of, network_of
from benchmarks.relatives import built
from gauntlet.data.dataset import Batch
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.full_passes import FullPasses
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")
"""What cannot answer before the device has."""


COPIES = ("cpu", "tolist")
"""Methods that wait for the device too. On a machine without one they leave no trace of their own."""


class Sizes(nn.Module):
    """The network, with the size of each batch that passed it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        with torch._C.DisableTorchFunction():  # what the network does is none of the attack's
            logits: Tensor = self.network(x)
        return logits


class Counts:
    """Reads, and calls of torch."""

    reads = calls = 0


class Operations(TorchDispatchMode):
    """Counts the reads that operators make."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts.reads += func.name().split(".")[0] in READS
        masks = [index for index in args[1] if index is not None] if func.name() == "aten::index.Tensor" else []
        self.counts.reads += any(index.dtype == torch.bool for index in masks)
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    """Counts the calls of torch, and the copies to the host."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        self.counts.reads += name in COPIES
        self.counts.calls += name not in FREE
        return func(*args, **(kwargs or {}))


FREE = ("__get__", "__set__", "__len__", "dim", "size", "numel", "detach", "is_floating_point", "requires_grad_")
"""What launches nothing."""


@contextmanager
def counted(attack: Any) -> Iterator[Counts]:
    """Count within calls of an attack, in whatever thread, and where shared passes and reads are made."""
    counts = Counts()
    places = [(type(attack), "__call__"), (FullPasses, "_answer"), (FullPasses, "_read")]
    real = [getattr(kind, name) for kind, name in places]

    def watched(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with Operations(counts), Calls(counts):
                return function(*args, **kwargs)

        return call

    for (kind, name), function in zip(places, real, strict=True):
        setattr(kind, name, watched(function))
    try:
        yield counts
    finally:
        for (kind, name), function in zip(places, real, strict=True):
            setattr(kind, name, function)


def row(name: str, attack: str, options: argparse.Namespace, full: bool) -> str:
    """Return the row of the table for one attack; the clean prediction and the verdicts are among the calls."""
    run, images, seen = evaluation(name, attack, options, full)
    with counted(run.attack[1]) as counts:
        rows = evaluate_chunk(run, images).rows.to_pandas()
    assert rows["error"].isna().all()
    calls, passed = len(seen), sum(seen)
    least, small, chain = math.ceil(passed / options.batch), sum(size <= 8 for size in seen), rows["forwards"].max()
    return (
        f"| {attack} | {'yes' if full else 'no'} | {calls} | {passed} | {passed / (calls * options.batch):.2f} | "
        f"{calls / least:.2f} | {chain} | {small} | {counts.reads / calls:.2f} | "
        f"{counts.calls / calls:.0f} |"
    )


def evaluation(name: str, attack: str, options: argparse.Namespace, full: bool) -> tuple[Evaluation, Batch, list[int]]:
    """Return an evaluation, its images, and the list of the sizes of its passes."""
    data, threat = NETWORKS[name]
    network, images = Sizes(network_of(name)), images_of(data, 0, options.samples)
    victim, copy = Victim(plain(network), (network,)), Victim(plain(network), (network,)) if options.copy else None
    chosen = built(attack, options.knob)
    threat = Threat(options.norm, options.eps) if options.eps else threat
    run = Evaluation(victim, (attack, chosen), threat, 10, fused=copy, batch_size=options.batch, full_passes=full)
    return run, images, network.seen


def seconds(name: str, attack: str, options: argparse.Namespace) -> str:
    """Return the CPU seconds of both ways by turns, each the best of the repeats."""
    best = {False: math.inf, True: math.inf}
    for full in (False, True) * options.repeats:
        run, images, _ = evaluation(name, attack, options, full)
        begun = time.process_time()
        evaluate_chunk(run, images)
        best[full] = min(best[full], time.process_time() - begun)
    return f"| {attack} | {best[False]:.2f} | {best[True]:.2f} | {best[True] / best[False]:.2f} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="at_resnet2b", choices=NETWORKS)
    parser.add_argument("--attack", nargs="+", default=["pgd", "pma", "apgd", "gauntlet"])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=0, help="of the second table, CPU seconds; 0: none")
    parser.add_argument("--copy", action="store_true", help="gradients from a copy, as under runtime.fold=true")
    parser.add_argument("--norm", default="linf", choices=Threat.NORMS, help="of another threat, with --eps")
    parser.add_argument("--eps", help="of another threat than the network's; or unbounded")
    parser.add_argument("--knob", nargs="+", default=[], metavar="attack.KEY=VALUE")
    parser.add_argument("--only-full", action="store_true", help="leave out the calls that run one after the other")
    options = parser.parse_args()
    torch.set_num_threads(1)
    say(
        "| attack | full passes | calls | samples passed | occupancy | calls over least | longest chain | small "
        "| reads per call | torch calls |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for attack in options.attack:
        for full in (True,) if options.only_full else (False, True):
            say(row(options.network, attack, options, full))
    if options.repeats:
        say("\n| attack | CPU seconds without | with | ratio |\n|---|---|---|---|")
        for attack in options.attack:
            say(seconds(options.network, attack, options))


if __name__ == "__main__":
    main()

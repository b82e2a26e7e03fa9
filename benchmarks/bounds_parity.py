"""Margins of IBP, CROWN-IBP and CROWN here and in auto_LiRPA, each method alone, on the same right images.

    PYTHONPATH=FOLDER_OF_AUTO_LIRPA python -m benchmarks.bounds_parity

auto_LiRPA is no dependency of this project and is not installed by it. Theirs are float32, with convolutions as patches
where their CROWN can (at_resnet2b: as matrices); ours as if the deployed network did not round. One thread.
"""

import copy
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.bounds import without_rounding
from benchmarks.public import NETWORKS, images_of, network_of
from gauntlet.certification.crown.graph_tracing import trace
from gauntlet.certification.crown.ibp import Ranges, intervals
from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.margin_bounds import Asked, Network, comparisons, tightened

MODELS = {"mnist_kw_0.3": (4, "patches"), "at_resnet2b": (3, "matrix")}
"""Network -> images, and how their convolutions are passed back."""


def lines(name: str) -> Iterator[str]:
    """Yield a row of the table for each method."""
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    (count, mode), (data, threat), module = MODELS[name], NETWORKS[name], network_of(name)
    batch = images_of(data, 0, 20)
    right = (module(batch.x).argmax(1) == batch.y).nonzero().squeeze(1)[:count]
    x, rows = batch.x[right], comparisons(batch.y[right], 10)
    network, region = Network.of(without_rounding(trace(module, (module,), tuple(x.shape[1:])))), legal(threat, x)
    owner, flat = torch.arange(count).repeat_interleave(rows.shape[1]), rows.flatten(0, 1)

    def ours(known: Callable[[Ranges], Ranges], boxed: bool = False) -> Tensor:
        ask = Asked(network, region, known(intervals(network.exact, region)), len(network.exact.nodes) - 1, 16)
        return ask.answer(owner, lambda piece: flat[piece], boxed=boxed)

    methods: dict[str, Callable[[], Tensor]] = {
        "IBP": lambda: ours(lambda ranges: ranges, boxed=True),
        "CROWN-IBP": lambda: ours(lambda ranges: ranges),
        "CROWN": lambda: ours(lambda ranges: tightened(network, region, ranges, 0, 16)),
    }
    low, high = (x - threat.radius).clamp(0, 1), (x + threat.radius).clamp(0, 1)
    ball = PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high)
    readable = copy.deepcopy(module)
    for layer in readable.modules():  # their patches ask for constants with a batch dimension
        for key, value in layer.named_buffers(recurse=False):
            setattr(layer, key, value[None] if value.dim() == 3 else value)
    bounded = BoundedModule(readable, torch.empty_like(x), bound_opts={"conv_mode": mode})
    for method, run in methods.items():
        begun = time.process_time()
        mine, middle = run(), time.process_time()
        found, _ = bounded.compute_bounds(x=(BoundedTensor(x, ball),), C=rows.float(), method=method, bound_upper=False)
        apart, seconds = mine - found.double().flatten(), (time.process_time() - middle, middle - begun)
        told = [f"{value:.1e}" for value in (apart.min(), apart.median(), apart.max())]
        told += [f"{found.abs().median():.2g}", *(f"{each:.2f}" for each in seconds)]
        yield f"| {name} | {count} | {method} | {' | '.join(told)} |"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.stdout.write(
        "| network | images | method | least | median | largest | median size of a margin | s, theirs | s, ours |\n"
        + "|---" * 9
        + "|\n"
    )
    with torch.no_grad():
        for name in MODELS:
            for line in lines(name):
                sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()

"""Seconds of CROWN here and in auto_LiRPA, on the same images of the public networks, on one thread.

    PYTHONPATH=FOLDER_OF_AUTO_LIRPA python -m benchmarks.bounds_speed [--model NAME ...] [--images 5] [--repeats 3]

auto_LiRPA is no dependency of this project and is not installed by it. Both prove the margins of the true class of the
images that are right, in groups of --images: theirs by `compute_bounds(method="CROWN")` with convolutions as patches
or as matrices, whichever is faster on the network, in float32; ours up to `crown`, float32 rounding covered. Images
that cheaper methods prove are left to both. Processor time, the least of --repeats, by turns.

Their intervals do not follow an l2 ball through a normalization, so under l2 they get images that are normalized
already, and the radius divided by the standard deviation, which all channels share: the same question.
"""

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.public import NETWORKS, images_of, network_of
from gauntlet.certification.crown.graph_tracing import trace
from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.margin_bounds import Effort, Network, prove
from gauntlet.threat_model.threat import Threat

MODES = ("patches", "matrix")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", nargs="*", default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.stdout.write(
        "| network | images | proven, theirs | proven, ours | s per image, theirs | s per image, ours | ratio |\n"
    )
    sys.stdout.write("|---|---|---|---|---|---|---|\n")
    for line in (_line(name, options.images, options.repeats) for name in options.model):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _line(name: str, images: int, repeats: int) -> str:
    network, (data, threat) = network_of(name), NETWORKS[name]
    batch = images_of(data, 0, 4 * images)
    with torch.no_grad():
        right = (network(batch.x).argmax(1) == batch.y).nonzero().squeeze(1)[:images]
    x, y = batch.x[right], batch.y[right]
    known = Network.of(trace(network, (network,), tuple(x.shape[1:])))
    runs = [lambda: prove(known, legal(threat, x), y, Effort("crown", 1, 0, 16)).margins]
    timed = _timed([*runs, *(run for run in _theirs(network, x, y, threat) if _works(run))], repeats)
    ours, theirs = timed[0], min(timed[1:], key=_seconds)
    proven = [int((margins > 0).all(1).sum()) for margins, _ in (theirs, ours)]
    shown = f"{theirs[1] / len(x):.4f} | {ours[1] / len(x):.4f} | {ours[1] / theirs[1]:.2f}"
    return f"| {name} | {len(x)} | {proven[0]} | {proven[1]} | {shown} |"


def _theirs(network: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Iterator[Callable[[], Tensor]]:
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    eps = threat.radius
    if threat.norm == "l2" and isinstance(network, nn.Sequential):
        std = network[0].get_buffer("std").unique()
        network, x, eps = network[1], network[0](x), eps / float(std)
    ball = (
        PerturbationLpNorm(norm=float("inf"), x_L=(x - eps).clamp(0, 1), x_U=(x + eps).clamp(0, 1))
        if threat.norm == "linf"
        else PerturbationLpNorm(norm=2, eps=eps)
    )
    eye = torch.eye(10)
    rows = torch.stack([eye[c] - eye[[k for k in range(10) if k != c]] for c in y.tolist()])
    readable = copy.deepcopy(network)
    for layer in readable.modules():  # their patches ask for constants with a batch dimension
        for name, value in layer.named_buffers(recurse=False):
            setattr(layer, name, value[None] if value.dim() == 3 else value)
    for mode in MODES:
        bounded = BoundedModule(readable, torch.empty_like(x), bound_opts={"conv_mode": mode})

        def run(bounded: object = bounded) -> Tensor:
            with torch.no_grad():
                found, _ = bounded.compute_bounds(  # type: ignore[attr-defined]
                    x=(BoundedTensor(x, ball),), C=rows, method="CROWN", bound_upper=False
                )
            return torch.as_tensor(found)

        yield run


def _works(run: Callable[[], Tensor]) -> bool:
    """Return whether their bounds exist in this mode."""
    try:
        run()
    except (AssertionError, NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def _seconds(timed: tuple[Tensor, float]) -> float:
    return timed[1]


def _timed(runs: Sequence[Callable[[], Tensor]], repeats: int) -> list[tuple[Tensor, float]]:
    """Return what the functions give, and the least processor time of several calls of each, by turns."""
    margins, best = [run() for run in runs], [float("inf") for _ in runs]
    for _ in range(repeats):
        for at, run in enumerate(runs):
            begun = time.process_time()
            run()
            best[at] = min(best[at], time.process_time() - begun)
    return list(zip(margins, best, strict=True))


if __name__ == "__main__":
    main()

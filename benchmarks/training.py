"""What training costs over the passes that it needs, and what the methods of training do.

    python -m benchmarks.training cost [--width 16] [--batch 32] [--repeats 5] [--only pgd_at ...]
    python -m benchmarks.training ways [--width 16] [--batch 32] [--repeats 5]
    python -m benchmarks.training effects [--out runs/_effects] [--seeds 3] [--only awp co ...] [--minutes 60]
        [--epochs 100]
    python -m benchmarks.training table [--out runs/_effects] [--epochs 100]

`cost` takes turns between a step of each recipe and a bare loop of the same passes of the same network, and compares
the processor time of pairs, which other work on the machine disturbs least. `ways` takes turns between the ways to
carry out one step of PGD-AT with three steps: order of memory, format of numbers, compiled.

`effects` trains and attacks what is missing, one network after the other, and can be stopped and started at any time:
trainings go on from their last state, and measured networks are not measured again. It begins with the first seed of
everything; with --epochs all trainings are that long, and stand beside those of other lengths. `table` prints what is
there. Robust: the worst of PGD (30 steps on digits, 20 on photographs) on cross-entropy and on the margin, on the test
part; train: the same on the images of the training. Seeds are paired: all arms of one seed see the same order of
images, the same augmentation and the same noise.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.seeds import add_options, work_through
from benchmarks.training_effects import composed, jobs, short, table
from benchmarks.training_questions import effects
from gauntlet.data.dataset import Batch
from gauntlet.models.low_rank import low_rank
from gauntlet.models.preact_resnet import PreActResNet
from gauntlet.threat_model.rng import Rng
from gauntlet.training.distributed import ALONE
from gauntlet.training.model_context import evaluating, forwarding, frozen, lowered
from gauntlet.training.step import Player
from gauntlet.training.trained_network import TrainedNetwork

out = sys.stdout.write


PASSES = {
    "standard": (0, 0, 1),
    "pgd_at": (0, 10, 1),
    "trades": (1, 10, 2),
    "mart": (0, 10, 2),
    "comp_sum": (1, 10, 2),
    "ldr": (0, 10, 1),
    "gairat": (0, 10, 1),
    "mail": (0, 10, 1),
    "mail_trades": (1, 10, 2),
    "lrat": (0, 20, 3),
    "done": (0, 10, 1),
    "dafa": (0, 10, 1),
    "fgsm_rs": (0, 1, 1),
    "n_fgsm": (0, 1, 1),
    "pgd_at_awp": (0, 10, 2),
    "trades_awp": (1, 10, 4),
    "mart_awp": (0, 10, 4),
    "amp": (0, 0, 2),
    "sam": (0, 0, 2),
    "condlr": (0, 0, 1),
    "adasap": (0, 0, 2),
    "advprop": (0, 5, 2),
    "conadv": (0, 1, 2),
    "pubdef": (0, 0, 2),
}
"""Recipe -> passes of a batch: forward; forward and backward to the images; forward and backward to the weights."""


class Images:
    """A random batch, as a part of a data set."""

    def __init__(self, count: int) -> None:
        self.x, self.y, self.ids = torch.rand(count, 3, 32, 32), torch.randint(10, (count,)), list(range(count))

    def read(self, rows: list[int]) -> Batch:
        return Batch(torch.tensor(rows), self.x[rows], self.y[rows])


def bare(network: nn.Module, x: Tensor, passes: tuple[int, int, int]) -> None:
    """The passes, and nothing else."""
    forwards, attacks, trains = passes
    with evaluating(network), frozen(network):
        with torch.no_grad():
            for _ in range(forwards):
                network(x)
        for _ in range(attacks):
            leaf = x.detach().requires_grad_()
            logits = network(leaf)
            torch.autograd.grad(logits, leaf, torch.ones_like(logits))
    for _ in range(trains):
        logits = network(x)
        torch.autograd.grad(logits, list(network.parameters()), torch.ones_like(logits))


def seconds(call: Callable[[], object]) -> float:
    """Processor time of this process."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def cost(width: int, batch: int, repeats: int, only: list[str]) -> None:
    torch.manual_seed(0)
    network = PreActResNet(classes=10, width=width).train()
    images = Images(batch)
    ids, x, y = images.read(images.ids)
    out(
        f"PreActResNet-18 of width {width}, 32x32, batch {batch}, one thread, {repeats} pairs, "
        f"torch {torch.__version__}\n"
    )
    # Constraints change the weights even at rate 0, so they have networks of their own.
    networks = dict.fromkeys(PASSES, network) | {"condlr": low_rank(deepcopy(network)), "adasap": deepcopy(network)}
    wanted = {*only, *(name.removesuffix("_awp") for name in only)} or {*PASSES}
    players = {name: _player(name, networks[name], images) for name in PASSES if name in wanted}

    def step(name: str) -> float:
        return seconds(lambda: players[name](x, y, Rng(0, ids, "cost"), 0.0, (0.5, 0.5)))

    for name, passes in PASSES.items():
        if only and name not in only:
            continue
        base = name.removesuffix("_awp")
        step(name)
        net = networks[name]
        turns = [(_bare(net, x, passes), step(name), step(base) if base != name else 1.0) for _ in range(repeats)]
        ratios = [whole / least for least, whole, _ in turns]
        line = f"{name:<11} passes {passes!s:<11} bare {statistics.median(least for least, _, _ in turns):7.3f} s"
        line += f"  ratio median {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f})"
        if base != name:
            line += f"  over {base} {statistics.median(whole / under for _, whole, under in turns):.3f}"
        out(line + "\n")
        sys.stdout.flush()


def ways(width: int, batch: int, repeats: int) -> None:
    y, ids = torch.randint(10, (batch,)), torch.arange(batch)
    steps = {}
    for name in ("usual order", "channels_last", "bfloat16", "both", "compiled"):
        torch.manual_seed(0)
        form = torch.channels_last if name in ("channels_last", "both") else torch.contiguous_format
        network = PreActResNet(classes=10, width=width).train().to(memory_format=form)  # type: ignore[call-overload]
        forward = torch.compile(network.forward) if name == "compiled" else network.forward
        player = _player("pgd_at", network, Images(2), "recipe.objective.attack.steps=3")
        x = torch.rand(batch, 3, 32, 32).contiguous(memory_format=form)
        steps[name] = partial(_step, network, forward, player, "bfloat16" if name in ("bfloat16", "both") else None, x)
        steps[name](y, ids)
    turns = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            turns[name].append(seconds(partial(step, y, ids)))
    first = statistics.median(turns["usual order"])
    for name, found in turns.items():
        out(f"{name:<13} {statistics.median(found):7.3f} s  {statistics.median(found) / first:.2f}\n")


def _step(
    network: nn.Module,
    forward: Callable[..., Tensor],
    player: Player,
    lower: str | None,
    x: Tensor,
    y: Tensor,
    ids: Tensor,
) -> None:
    with forwarding(network, forward), lowered(network, lower, x.device):
        player(x, y, Rng(0, ids, "ways"), 0.0, (0.5, 0.5))


def _player(name: str, network: nn.Module, images: Images, *settings: str) -> Player:
    cfg = composed(f"recipe={name}", "recipe.objective.attack.eps=8/255" if PASSES[name][1] else "seed=0", *settings)
    model, recipe = (OmegaConf.to_container(node) for node in (cfg.model, cfg.recipe))
    given = {"normal": deepcopy(network).eval()} if name == "pubdef" else {}
    built = TrainedNetwork(model, recipe, uses=list(given)).built_recipe(given)  # type: ignore[arg-type]
    objective, device = built.objective, torch.device("cpu")
    if given:
        nn.init.normal_(given["normal"].head.weight)  # a source with the weights of the network is refused
        objective.begin(network)
    objective.prepare(network, images, 0, device)  # type: ignore[arg-type]
    objective.collect(images, 0, device, None, False)  # type: ignore[arg-type]
    return Player(network, built, ALONE, None)


def _bare(network: nn.Module, x: Tensor, passes: tuple[int, int, int]) -> float:
    return seconds(lambda: bare(network, x, passes))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["cost", "ways", "effects", "table"])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int)
    add_options(parser, "runs/_effects")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {k: v for k, v in effects(options.shared.resolve()).items() if not options.only or k in options.only}
    if options.epochs:
        longer = f"recipe.epochs={options.epochs}"
        found = {
            f"{name}_{options.epochs}_epochs": replace(effect, settings=(*effect.settings, longer))
            for name, effect in found.items()
        }
    if options.what == "cost":
        cost(options.width, options.batch, options.repeats, options.only)
    elif options.what == "ways":
        ways(options.width, options.batch, options.repeats)
    elif options.what == "effects":
        work_through(jobs(options.out, found, options.seeds), options.minutes, short)
    else:
        table(options.out, found, options.seeds)


if __name__ == "__main__":
    main()

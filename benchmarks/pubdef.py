"""What PubDef stands on digits: examples of its sources, of networks that it has not seen, and of its own.

    python -m benchmarks.pubdef [--out runs/_effects] [--seeds 3] [--only PubDef ...]

The sources are the shipped networks `standard`, `pgd_at` and `gaussian`; `trades`, `mart`, `comp_sum`, `pgd_at_awp` and
`amp` are held out. Each crafts by PGD of 30 steps on cross-entropy and on the margin, from test images, and the targets
answer. Targets have seeds of their own, so none is a source. For the record in
benchmarks/training/pubdef.md.
"""

import argparse
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.seeds import interval
from benchmarks.training_effects import composed, worst
from benchmarks.training_questions import effects
from gauntlet.attacks.pgd import PGD
from gauntlet.config.validate import build
from gauntlet.data.dataset import Batch
from gauntlet.models import checkpoint
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, plain
from gauntlet.training.loop import BEST
from gauntlet.training.trained_network import TrainedNetwork
from gauntlet.training.weights_cache import ZOO

out = sys.stdout.write
SEEN = {"normal": "standard", "linf": "pgd_at", "corruption": "gaussian"}
HELD_OUT = ("trades", "mart", "comp_sum", "pgd_at_awp", "amp")
EPS = "0.15"
ARMS = {
    "standard": ("recipe=standard",),
    "PGD-AT": ("recipe=pgd_at",),
    "PubDef": ("recipe=pubdef",),
    "PubDef, equilibrium": ("recipe=pubdef", "recipe.objective.weights=equilibrium"),
    "PubDef, without linf": ("recipe=pubdef",),
}


def shipped(name: str) -> nn.Module:
    network = TrainedNetwork(OmegaConf.to_container(composed("recipe=standard").model), {}).first_network()  # type: ignore[arg-type]
    checkpoint.load(network, ZOO / f"digits_small_cnn_{name}.safetensors")
    return network.eval().requires_grad_(False)


def crafted(source: nn.Module, batch: Batch) -> list[Tensor]:
    head = CountedHead(Head("true", plain(source), exact=True), plain(source), Counts.of(batch.ids))
    return [
        PGD(steps=30, loss=loss)(head, batch.x, batch.y, threat=Threat("linf", EPS), rng=Rng(0, batch.ids, loss))
        for loss in ("ce", "margin")
    ]


def trained(arm: str, seed: int, given: dict[str, nn.Module], cache: Path) -> nn.Module:
    cfg = composed(*ARMS[arm], f"seed={seed}")
    model, recipe = (OmegaConf.to_container(cfg[key]) for key in ("model", "recipe"))
    uses = [name for name in given if not (arm.endswith("without linf") and name == "linf")]
    part = TrainedNetwork(model, recipe, seed=seed, uses=uses if arm.startswith("PubDef") else [])  # type: ignore[arg-type]
    folder = part.train(build(cfg.dataset), cache, given=given, progress=False)
    network = part.first_network()
    checkpoint.load(network, folder / BEST)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def stands(target: nn.Module, batch: Batch, examples: dict[str, list[Tensor]]) -> tuple[float, float]:
    """The least accuracy over the sources and their attacks, and that under all of them at once."""
    right = [target(z).argmax(1) == batch.y for each in examples.values() for z in each]
    clean = target(batch.x).argmax(1) == batch.y
    return min(float((one & clean).double().mean()) for one in right), float(
        (torch.stack(right).all(0) & clean).double().mean()
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/_effects"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=ARMS, default=list(ARMS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    effect = effects(Path("../shared"))["robust"]
    batch = build(composed("recipe=standard").dataset).split("test")
    split, test = batch, batch.read(sorted(range(len(batch)), key=lambda row: int(batch.ids[row])))
    given = {group: shipped(name) for group, name in SEEN.items()}
    seen = {name: crafted(given[group], test) for group, name in SEEN.items()}
    held = {name: crafted(shipped(name), test) for name in HELD_OUT}
    out("| training | clean | sources: worst | sources: all | held out: worst | held out: all | white box |\n")
    out(7 * "|---" + "|\n")
    for arm in options.only:
        rows = []
        for seed in range(1, options.seeds + 1):
            target = trained(arm, seed, given, options.out / "_trained")
            judged = worst(target, split, effect)
            rows.append([judged.clean, *stands(target, test, seen), *stands(target, test, held), judged.robust])
        out(f"| {arm} | {' | '.join(interval(list(column)) for column in zip(*rows, strict=True))} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Find the parameters of MixedNUTS for two networks: `gauntlet calibrate mixednuts [OVERRIDE ...]`.

On clean images that the robust network gets wrong, and on attacked ones that it still gets right; none of them may be
an image that is evaluated.
"""

import argparse
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.losses import margins
from gauntlet.commands.calibration import Setting, answer, batches
from gauntlet.data.dataset import Batch, Split
from gauntlet.defenses.mixednuts import FittedMap, MixedNUTS, mapped, nuts, search
from gauntlet.errors import UserError
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, plain

Ranges = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""Of s, c and p in the grid."""

RANGES: Ranges = ((0.05, 5.0), (-1.1, 0.0), (1.0, 4.0))


class Calibration(NamedTuple):
    """What the search found, and what it found it on."""

    found: FittedMap
    images: int
    wrong: int  # by the robust network, without an attack
    held: int  # right under attack
    clean: tuple[float, float, float, float]  # accuracy of the accurate network, the robust one, its map, the mixture
    split: str = "validation"
    beta: float = 0.985
    digest: str = ""


def attacked(network: nn.Module, batch: Batch, threat: Threat, classes: int, steps: int, targets: int) -> Tensor:
    """Return the logits of the network on the attacked images of a batch that it still gets right, each with the
    smallest margin that APGD-CE and targeted APGD found, [m, K]."""
    head, loss = Head("true", plain(network), exact=True), "dlr" if classes >= 4 else "margin"
    ids, x, y = batch
    least: Tensor = network(x)
    for attack in (APGD(steps=steps), APGD(steps=steps, loss=loss, targets=min(targets, classes - 1))):
        right = (least.argmax(1) == y).nonzero().squeeze(1)
        if len(right):
            counted = CountedHead(head, head.forward, Counts.of(ids[right]))
            rng = Rng(0, ids[right], f"calibration/{attack.loss}")
            z = attack(counted, x[right], y[right], threat=threat, rng=rng)
            logits = network(z)
            lower = margins(logits, y[right]) < margins(least[right], y[right])
            least[right[lower]] = logits[lower]
    return least[least.argmax(1) == y]


@torch.no_grad()
def calibrate(
    accurate: nn.Module,
    robust: nn.Module,
    split: Split,
    threat: Threat,
    classes: int,
    samples: int,
    steps: int,
    targets: int,
    beta: float,
    ranges: Ranges = RANGES,
) -> Calibration:
    """Search on the first images of a split, which must be none of those that are evaluated."""
    g, h, y, held = [], [], [], []
    for batch in batches(split, samples):
        g.append(accurate(batch.x))
        h.append(robust(batch.x))
        y.append(batch.y)
        held.append(attacked(robust, batch, threat, classes, steps, targets))
    left, right, labels, still = torch.cat(g), torch.cat(h), torch.cat(y), torch.cat(held)
    wrong = right[right.argmax(1) != labels]
    found = search(wrong, still, beta, *ranges)
    changed = mapped(right, found.s, found.c, found.p)
    both = nuts(left, changed, found.alpha)
    clean = [float((scores.argmax(1) == labels).double().mean()) for scores in (left, right, changed, both)]
    return Calibration(found, len(labels), len(wrong), len(still), (clean[0], clean[1], clean[2], clean[3]), beta=beta)


def lines(done: Calibration, defense: str) -> list[str]:
    """Return the report: what was found, as options of run.py for the defense of that name, and on what."""
    found, (accurate, robust, alone, mixture) = done.found, done.clean
    knobs = {name: f"{getattr(found, name):.9g}" for name in ("s", "c", "p", "alpha", "blend")}
    origin = {"split": done.split, "images": done.images, "beta": f"{done.beta:g}", "digest": done.digest}
    knobs |= {f"calibration.{name}": str(value) for name, value in origin.items() if value}
    return [
        f"{done.images} images: {done.wrong} that the robust network gets wrong, {done.held} right under attack",
        _margins("median margin", found.gap_plain),
        _margins("after the map", found.gap),
        f"kept under attack            {found.held:7.2%}   margin at least {found.threshold:.4g}",
        f"mistakes out of reach        {found.kept:7.2%}   without the map {found.kept_plain:.2%}",
        f"weight of the robust network {found.alpha:.5f}   without the map {found.blend:.5f}",
        f"clean: accurate {accurate:.2%}, robust {robust:.2%}, its map {alone:.2%}, mixture {mixture:.2%} "
        "(fitted here: no result)",
        f"defense={defense} " + " ".join(f"defense.{name}={value}" for name, value in knobs.items()),
    ]


def _margins(what: str, gap: tuple[float, float]) -> str:
    return f"{what:<29}{gap[0]:7.4f} of right answers under attack, {gap[1]:.4f} of mistakes without"


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="gauntlet calibrate mixednuts", description=__doc__)
    parser.add_argument("--part", default="validation", help="of the data set: validation or train")
    parser.add_argument("--samples", type=int, default=1000, help="the first so many images")
    parser.add_argument("--beta", type=float, default=0.985, help="share of right answers under attack to keep")
    parser.add_argument("--steps", type=int, default=50, help="of each attack")
    parser.add_argument("--targets", type=int, default=9, help="classes that the targeted attack tries")
    for name, bounds in zip("scp", RANGES, strict=True):
        parser.add_argument(f"--{name}", type=float, nargs=2, default=bounds, help=f"range of {name} in the grid")
    parser.add_argument("overrides", nargs="*", help="options of run.py: data set, model, threat, parts")
    options = parser.parse_args(arguments)
    return answer(lambda: _calibrated(options))


def _calibrated(options: argparse.Namespace) -> list[str]:
    if options.samples < 1:
        raise UserError(f"--samples {options.samples} must be at least 1")
    setting = Setting.of("mixednuts", options.overrides)
    defense = setting.defense
    if not isinstance(defense, MixedNUTS):
        raise UserError(f"defense={type(defense).__name__} has no such parameters; take mixednuts or mixednuts_cifar")
    split, models = setting.images(options.part, options.samples), setting.models()
    done = calibrate(
        models["accurate"], models["robust"], split, setting.threat, setting.dataset.classes,
        options.samples, options.steps, options.targets, options.beta,
        (options.s, options.c, options.p),
    )  # fmt: skip
    return lines(done._replace(split=options.part, digest=split.digest()), setting.name)

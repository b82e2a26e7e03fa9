"""Clean accuracy against certified radius: mixtures of an accurate and a smoothed network, and each of them alone.

    python -m benchmarks.mixtures [--samples 10000] [--figure benchmarks/mixtures.svg]

The networks are those of `defense=smoothed_mixing` on `digits`; what is not shipped is trained once. Votes are drawn
once for each noise: the closed form turns them into a radius for every weight alpha. alpha = 1 is the smoothed network
alone, alpha = 0 the accurate one, which has no noise and no certificate. Clean accuracy is that of the mixture, with
the mean over all draws.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from gauntlet.certification.certifiable import Mixed
from gauntlet.certification.certifier import Work
from gauntlet.certification.mixing import closed
from gauntlet.certification.sequential_test import Stopping, floored
from gauntlet.certification.vote_sampling import count
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.evaluation.deployment import deploy
from gauntlet.jobs.setup import KEYS
from gauntlet.threat_model.rng import Rng
from gauntlet.tracking import NoTracker

SIGMAS, ALPHAS = (0.25, 0.5, 1.0), (1.0, 0.9, 0.76, 0.6)
CONFIDENCE, SELECTION = 0.001, 100
COLOURS = {0.0: "#333", 0.25: "#1b6ca8", 0.5: "#b3541e", 1.0: "#3b7a3b"}
DASHES = {0.0: "", 1.0: "", 0.9: "9 3", 0.76: "5 3", 0.6: "2 3"}
WIDTH, HEIGHT, LEFT, TOP = 600, 340, 56, 16


@dataclass(frozen=True)
class Curve:
    """A model: its clean accuracy, and the radius of each image, -1 where it is wrong or abstains."""

    sigma: float
    alpha: float
    clean: float
    radius: np.ndarray

    def certified(self, radius: float) -> float:
        return float((self.radius >= radius).mean())


def curves(samples: int, runs: Path) -> Iterator[Curve]:
    for sigma in SIGMAS:
        with initialize_config_dir(CONF, version_base=None):
            node = ["defense=smoothed_mixing", f"defense.sigma={sigma}", "defense.robust_scale=100"]
            cfg = checked(compose("run", [*node, "attack=pgd"]), KEYS)
        dataset, runtime = build(cfg.dataset), build(cfg.runtime)
        device = torch.device("cpu")
        victim = deploy(cfg.defense, dataset, runs / "_trained", runtime, device, NoTracker()).victim
        split = dataset.split("test")
        batch = split.read(slice(0, len(split)))
        ids, x, y = (t[batch.ids.argsort()] for t in batch)
        mechanism, accurate = victim.mechanism, victim.modules[0]
        assert isinstance(mechanism, Mixed)
        plan = Stopping(mechanism.radius, CONFIDENCE, len(x), 1, SELECTION, (samples,))
        counted = count(mechanism, x, Rng(0, ids, "certificate"), dataset.classes, plan, Work(1024))
        with torch.no_grad():
            g = accurate(x).double().softmax(1).numpy()
        h = counted.votes[:, 0] / samples
        for alpha in ALPHAS:
            radius = floored(closed(plan.bound[:, 0], 0, alpha, sigma))
            right = (plan.chosen == y.numpy()) & (radius > 0)
            clean = ((1 - alpha) * g + alpha * h).argmax(1) == y.numpy()
            yield Curve(sigma, alpha, float(clean.mean()), np.where(right, radius, -1.0))
    yield Curve(0.0, 0.0, float((g.argmax(1) == y.numpy()).mean()), np.full(len(x), -1.0))


def table(found: Sequence[Curve], radii: Sequence[float]) -> Iterator[str]:
    yield "| sigma | alpha | clean | " + " | ".join(f"{radius:g}" for radius in radii) + " |"
    yield "|---" * (3 + len(radii)) + "|"
    for each in found:
        shares = " | ".join(f"{100 * each.certified(radius):.1f}" for radius in radii)
        yield f"| {each.sigma:g} | {each.alpha:g} | {100 * each.clean:.1f} | {shares} |"


def figure(found: Sequence[Curve]) -> str:
    """The curves as SVG: certified accuracy against the radius, and a dot at radius 0 for the clean accuracy."""
    most = max(float(each.radius.max()) for each in found)
    right, bottom = WIDTH - 175, HEIGHT - 44

    def place(radius: float, share: float) -> tuple[float, float]:
        return LEFT + (right - LEFT) * radius / most, bottom - (bottom - TOP) * share

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#333"/>',
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">certified l2 radius</text>',
        f'<text transform="translate(14 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">accuracy, %</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        out.append(f'<text x="{LEFT - 6}" y="{place(0, share)[1] + 4:.1f}" text-anchor="end">{100 * share:.0f}</text>')
    for radius in np.arange(0, most, 0.5):
        out.append(f'<text x="{place(radius, 0)[0]:.1f}" y="{bottom + 16}" text-anchor="middle">{radius:g}</text>')
    for number, each in enumerate(found):
        colour, dash = COLOURS[each.sigma], DASHES[each.alpha]
        points = [place(radius, each.certified(radius)) for radius in np.linspace(1e-6, most, 120)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        line = f'fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dash}"'
        out.append(f'<polyline points="{path}" {line}/>')
        dot = place(0, each.clean)
        filled = colour if each.alpha in (0, 1) else "#fff"
        out.append(f'<circle cx="{dot[0]:.1f}" cy="{dot[1]:.1f}" r="3" fill="{filled}" stroke="{colour}"/>')
        row = TOP + 10 + 20 * number
        out.append(f'<path d="M{right + 14} {row}h26" {line}/>')
        told = f"σ {each.sigma:g}, α {each.alpha:g}" + (" (alone)" if each.alpha == 1 else "")
        told = told if each.alpha else "accurate alone (dot)"
        out.append(f'<text x="{right + 46}" y="{row + 4}">{told}</text>')
    return "\n".join([*out, "</svg>", ""])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixtures")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--figure", type=Path, default=Path("benchmarks/mixtures.svg"))
    parser.add_argument("--radii", type=float, nargs="+", default=[0.1, 0.25, 0.5, 0.75, 1.0])
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = list(curves(given.samples, given.runs))
    sys.stdout.write("\n".join(table(found, given.radii)) + "\n")
    given.figure.write_text(figure(found))


if __name__ == "__main__":
    main()

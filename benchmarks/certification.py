"""Certification: how fast votes are counted, and how many draws the sequential rules save.

    python -m benchmarks.certification speed [--images 2 --draws 512]
    python -m benchmarks.certification draws LOG:SIGMA:R,R,R+R ...   # public certification logs; R+R: a grid of both
    python -m benchmarks.certification randomized LOG:SIGMA ...    # Clopper-Pearson beside bounds drawn for each image
    python -m benchmarks.certification runs FOLDER                 # runs of run.py, with rule=fixed and others

`speed` counts votes of a ResNet-18 at 32x32 by the engine, by a plain loop over images, and compares both with the
forward pass on ready-made batches. `draws` takes the shares of votes of published certificates as true, draws votes
with these shares, and compares `decide` with all of 100,000 draws. `randomized` compares bounds of the same votes.
`runs` compares the rules on networks that were run.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import special

from gauntlet.certification.certifiable import Smoothed
from gauntlet.certification.certifier import Work
from gauntlet.certification.noise import Gaussian
from gauntlet.certification.sequential_test import BOUNDS, Stopping, floored, looks
from gauntlet.certification.smoothing import RANDOMIZED, Smoothing
from gauntlet.certification.vote_sampling import count
from gauntlet.commands.certification_log import read
from gauntlet.evidence.run_folder import RunFolder, find_runs
from gauntlet.metrics.certificate_summary import summary
from gauntlet.models.resnet import ResNet
from gauntlet.threat_model.rng import Rng

BATCH = 256
ALPHA, SELECTION, SAMPLES = 0.001, 100, 100_000
RATIO = Smoothing.ratio
REPEATS = 8
LOST = 0.001
"""Part of the images that a rule may lose."""


def best(work: Callable[[], object], times: int) -> float:
    """Least seconds of CPU of this process over several runs: the machine may be busy with other things."""
    found = []
    for _ in range(times):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def plain_loop(network: torch.nn.Module, x: torch.Tensor, draws: int, sigma: float) -> list[int]:
    """The counting loop of most published code: one image after the other, noise by torch.randn."""
    out = []
    for image in x:
        counts, left = np.zeros(10, int), draws
        while left:
            size = min(left, BATCH)
            batch = image.repeat(size, 1, 1, 1)
            votes = network(batch + torch.randn_like(batch) * sigma).argmax(1)
            for vote in votes.cpu().numpy():
                counts[vote] += 1
            left -= size
        out.append(int(counts.argmax()))
    return out


def speed(images: int, draws: int, times: int) -> list[str]:
    """Forward passes per second of CPU."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = ResNet(classes=10, channels=3, depth=18).eval().requires_grad_(False)
    x, ready = torch.rand(images, 3, 32, 32), torch.rand(BATCH, 3, 32, 32)
    total = images * draws
    mechanism, rng = Smoothed(network, Gaussian(0.25)), Rng(0, torch.arange(images))

    def engine() -> None:
        plan = Stopping(mechanism.radius, ALPHA, images, 1, 0, (draws,))
        count(mechanism, x, rng, 10, plan, Work(BATCH))

    def bare() -> None:
        for _ in range(total // BATCH):
            network(ready)

    with torch.no_grad():
        network(ready)
        rates = {
            "bare forward, ready batches": (total // BATCH * BATCH) / best(bare, times),
            "engine": total / best(engine, times),
            "plain loop over images": total / best(lambda: plain_loop(network, x, draws, 0.25), times),
            "plain loop, 100 draws each": images * 100 / best(lambda: plain_loop(network, x, 100, 0.25), times),
        }
    top = rates["bare forward, ready batches"]
    lines = ["| | forwards/s of CPU | share of the bare forward |", "|---|---|---|"]
    return lines + [f"| {name} | {rate:.1f} | {rate / top:.3f} |" for name, rate in rates.items()]


def emulated(
    shares: np.ndarray, sigma: float, looked: tuple[int, ...], radii: tuple[float, ...], seed: int,
    bound: str = Smoothing.bound,
) -> tuple:  # fmt: skip
    """Radii, and draws used, of images whose class has these shares of the votes."""
    rng, n = np.random.default_rng(seed), len(shares)
    plan = Stopping(
        lambda s: Gaussian(sigma).radius(s[..., 0]), ALPHA, n, 1, SELECTION, looked, radii, Smoothing.futility, bound
    )
    if bound == RANDOMIZED:
        plan.uniform = np.random.default_rng([seed, 1]).random((n, 1))
    every = np.arange(n)

    def votes(hits: np.ndarray, total: int) -> np.ndarray:
        return np.stack([total - hits, hits], 1)[:, None]

    chosen = rng.binomial(SELECTION, shares)
    going = plan.hopeful(every, votes(np.maximum(chosen, SELECTION // 2 + 1), SELECTION))
    used, hits, before = np.full(n, SELECTION), np.zeros(n, int), 0
    for number, drawn in enumerate(looked):
        at = np.flatnonzero(going)
        if not len(at):
            break
        hits[at] += rng.binomial(drawn - before, shares[at])
        used[at] += drawn - before
        going[at] = ~plan.ended(at, number, votes(hits[at], drawn))
        before = drawn
    return floored(plan.best), used


def fewest(
    shares: np.ndarray, asked: float | np.ndarray, images: int, alpha: float = ALPHA, lost: float = 0.0
) -> float:
    """Return Wald's bound: mean draws of so many images that any rule needs which fails with probability alpha at most
    and says of those with these shares that they are above the one asked; the other images for nothing.

    asked: one share, or one for each image.
    lost: of the images, the part of which the rule may not say so: of each with a probability b that costs least, where
        it needs ((1 - b) log((1 - b) / alpha) + b log(b / (1 - alpha))) / KL draws.
    """
    apart = np.maximum(special.rel_entr(shares, asked) + special.rel_entr(1 - shares, 1 - asked), 1e-12)
    apart = np.maximum(apart, -np.log(alpha) / SAMPLES)  # all draws decide: no more are needed
    low, high, missed = 0.0, 1e12, np.zeros_like(apart)
    for _ in range(200 if lost else 0):  # the price of a miss at which as many are missed as may be
        price = np.sqrt(max(low, 1e-12) * high)
        odds = special.expit(special.logit(alpha) + np.minimum(price * apart, 700))  # that it says so
        missed = 1 - np.maximum(odds, alpha)
        low, high = (price, high) if missed.sum() > lost * images else (low, price)
    needed = special.rel_entr(1 - missed, alpha) + special.rel_entr(missed, 1 - alpha)
    return float((needed / apart).sum()) / images


def logged(name: str, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of votes behind a log, and which predictions were right, `REPEATS` times over."""
    log = read(Path(name))
    shares = special.ndtr(log.radius / sigma)
    shares[log.radius >= log.radius.max() - 1e-9] = 1.0
    nothing = log.predict < 0  # how often the best class of these was hit is not in the log
    shares[nothing] = np.random.default_rng(1).uniform(0.3, 0.5, int(nothing.sum()))
    return np.tile(shares, REPEATS), np.tile(log.correct, REPEATS)


def randomized(specs: Sequence[str]) -> list[str]:
    """One line for each log and number of draws: certified radii by both bounds, of the same votes."""
    lines = [
        "| log | draws | average radius | randomized | gained | points at sigma | most points | at r |",
        "|---" * 8 + "|",
    ]
    for spec in specs:
        name, width = spec.rsplit(":", 1)
        sigma = float(width)
        shares, right = logged(name, sigma)
        for total in (100, 1000, 10_000, SAMPLES):
            each = [
                right * emulated(shares, sigma, (total,), (), 0, bound)[0] for bound in (Smoothing.bound, RANDOMIZED)
            ]
            radii = np.linspace(0, 4 * sigma, 161)[1:]
            curves = [np.array([100 * (found >= radius).mean() for radius in radii]) for found in each]
            most = int((curves[1] - curves[0]).argmax())
            told = [Path(name).stem, f"{total:,}", *(f"{found.mean():.4f}" for found in each)]
            told.append(f"{each[1].mean() / each[0].mean() - 1:.1%}")
            told += [f"{(curves[1] - curves[0])[at]:.2f}" for at in (39, most)] + [f"{radii[most]:.3g}"]
            lines.append(f"| {' | '.join(told)} |")
    return lines


def draws(specs: Sequence[str], bound: str) -> list[str]:
    """One line for each log and radius."""
    heads = "| log | r | all draws | `decide` | lost | draws per image | fewer | at most | with 0.1 lost |"
    lines = [heads, "|---" * 9 + "|"]
    for spec in specs:
        name, width, asked = spec.rsplit(":", 2)
        sigma = float(width)
        shares, right = logged(name, sigma)
        (fixed, spent), n = emulated(shares, sigma, (SAMPLES,), (), 0), len(shares)
        for text in asked.split(","):
            radii = tuple(float(each) for each in text.split("+"))  # more than one: a grid
            found, used = emulated(shares, sigma, looks(SAMPLES, 100, RATIO), radii, 2, bound)
            full, some = (
                np.array([100 * (right & (each >= radius)).mean() for radius in radii]) for each in (fixed, found)
            )
            worst, cost = int((full - some).argmax()), spent.mean() / used.mean()
            reached = (fixed[:, None] >= np.array(radii)).sum(1)
            sure, last = shares[reached > 0], np.array(radii)[reached[reached > 0] - 1]
            bounds = [fewest(sure, special.ndtr(last / sigma), n, lost=lost) for lost in (0, LOST)]
            told = [Path(name).stem, text, *(f"{share[worst]:.2f}" for share in (full, some, full - some))]
            told += [f"{used.mean():,.0f}", f"{cost:.1f} x", *(f"{spent.mean() / each:.1f} x" for each in bounds)]
            lines.append(f"| {' | '.join(told)} |")
    return lines


def compared(root: Path) -> list[str]:
    """One line for each run below root that asked for radii, and each of these, beside all draws on the same model."""
    lines = ["| defense | rule | r | all draws | asked | lost | draws per image | fewer | at least |", "|---" * 9 + "|"]
    found = []
    for run in find_runs(root):
        manifest: Any = run.manifest()
        found.append((manifest["victim"], manifest["config"]["certifier"], manifest, summary(run), run))
    whole = {victim: (total, run) for victim, how, _, total, run in found if how["rule"] == "fixed"}
    for victim, how, manifest, total, _ in found:
        if how["rule"] in ("decide", "grid") and victim in whole:
            (fixed, run), spent = whole[victim], total.samples_used / total.samples
            for radius in how["radii"] or [manifest["threat"]["radius"]]:
                full, some = (100 * each.certified(radius) / each.samples for each in (fixed, total))
                told = [manifest["name"]["defense"], how["rule"], f"{radius:g}"]
                told += [f"{share:.2f}" for share in (full, some, full - some)]
                told += [f"{spent:,.0f}", f"{fixed.samples_used / fixed.samples / spent:.1f} x"]
                told.append(least(run, radius, how["alpha"]))
                lines.append(f"| {' | '.join(told)} |")
    return lines


def least(run: RunFolder, radius: float, alpha: float) -> str:
    """Return `fewest` in words, of one network with Gaussian noise: for what all draws certify at that radius."""
    p0, known, images = float(special.ndtr(radius / run.manifest()["config"]["defense"]["sigma"])), [], 0
    for table in run.read_parts():
        rows = table.to_pandas()
        if len(rows["counts"][0]) > 1:
            return "–"
        sure = rows[(rows["radius"] >= radius) & (rows["predict"] >= 0)]
        known += [counts[0] / trials for counts, trials in zip(sure["counts"], sure["trials"], strict=True)]
        images += len(rows)
    return f"{fewest(np.array(known), p0, images, alpha):,.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.certification")
    parser.add_argument("what", choices=("speed", "draws", "randomized", "runs"))
    parser.add_argument("logs", nargs="*")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--draws", type=int, default=512)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--bound", default=Smoothing.bound, choices=BOUNDS)
    given = parser.parse_args(arguments)
    if given.what == "speed":
        table = speed(given.images, given.draws, given.times)
    else:
        tables = {"draws": lambda: draws(given.logs, given.bound), "randomized": lambda: randomized(given.logs)}
        table = tables.get(given.what, lambda: compared(Path(given.logs[0])))()
    sys.stdout.write("\n".join(table) + "\n")


if __name__ == "__main__":
    main()

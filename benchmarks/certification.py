"""Certification: how fast votes are counted, and how many draws the sequential rules save.

    python -m benchmarks.certification speed [--images 2 --draws 512]
    python -m benchmarks.certification draws LOG:SIGMA:R,R,R+R ...   # public certification logs; R+R: a grid of both
    python -m benchmarks.certification runs FOLDER                 # runs of run.py, with rule=fixed and others

`speed` counts votes of a ResNet-18 at 32x32 by the engine, by a plain loop over images, and compares both with the
forward pass on ready-made batches. `draws` takes the shares of votes of published certificates as true, draws votes
with these shares, and compares `decide` with all of 100,000 draws. `runs` compares the rules on networks that were run.
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
from gauntlet.certification.sequential_test import Stopping, floored, looks
from gauntlet.certification.smoothing import Smoothing
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


def emulated(shares: np.ndarray, sigma: float, looked: tuple[int, ...], radii: tuple[float, ...], seed: int) -> tuple:
    """Radii, and draws used, of images whose class has these shares of the votes."""
    rng, n = np.random.default_rng(seed), len(shares)
    plan = Stopping(
        lambda s: Gaussian(sigma).radius(s[..., 0]), ALPHA, n, 1, SELECTION, looked, radii, Smoothing.futility
    )
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


def fewest(shares: np.ndarray, share: float, images: int, alpha: float = ALPHA) -> float:
    """Return Wald's bound: mean draws of so many images that any rule needs which fails with probability alpha at most
    and says of those with these shares that they are above `share`; the other images for nothing."""
    apart = special.rel_entr(shares, share) + special.rel_entr(1 - shares, 1 - share)
    return float(np.minimum(-np.log(alpha) / np.maximum(apart, 1e-12), SAMPLES).sum()) / images


def draws(specs: Sequence[str]) -> list[str]:
    """One line for each log and radius."""
    heads = "| log | r | all draws | `decide` | lost | draws per image | fewer | at most |"
    lines = [heads, "|---|---|---|---|---|---|---|---|"]
    for spec in specs:
        name, width, asked = spec.rsplit(":", 2)
        log, sigma = read(Path(name)), float(width)
        shares = special.ndtr(log.radius / sigma)
        shares[log.radius >= log.radius.max() - 1e-9] = 1.0
        nothing = log.predict < 0  # how often the best class of these was hit is not in the log
        shares[nothing] = np.random.default_rng(1).uniform(0.3, 0.5, int(nothing.sum()))
        shares, right = np.tile(shares, REPEATS), np.tile(log.correct, REPEATS)
        (fixed, spent), n = emulated(shares, sigma, (SAMPLES,), (), 0), len(shares)
        for text in asked.split(","):
            radii = tuple(float(each) for each in text.split("+"))  # more than one: a grid
            found, used = emulated(shares, sigma, looks(SAMPLES, 100, RATIO), radii, 2)
            full, some = (
                np.array([100 * (right & (each >= radius)).mean() for radius in radii]) for each in (fixed, found)
            )
            worst, cost = int((full - some).argmax()), spent.mean() / used.mean()
            bounds = [fewest(shares[fixed >= radius], float(special.ndtr(radius / sigma)), n) for radius in radii]
            told = [Path(name).stem, text, *(f"{share[worst]:.2f}" for share in (full, some, full - some))]
            told += [f"{used.mean():,.0f}", f"{cost:.1f} x", f"{spent.mean() / max(bounds):.1f} x"]
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
    parser.add_argument("what", choices=("speed", "draws", "runs"))
    parser.add_argument("logs", nargs="*")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--draws", type=int, default=512)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args(arguments)
    if given.what == "speed":
        table = speed(given.images, given.draws, given.times)
    else:
        table = draws(given.logs) if given.what == "draws" else compared(Path(given.logs[0]))
    sys.stdout.write("\n".join(table) + "\n")


if __name__ == "__main__":
    main()

"""Where runs through a relaxed ball break samples, and how early it shows.

    python -m benchmarks.relaxed_runs [--network NAME ...] [--first 4000] [--samples 2000]

After the screen of `gauntlet` every sample of gap at most 0.7 gets a run of three cycles to each other class, whether
another run broke it or not, and is dropped only where it is hopeless. Printed are the samples that fall to the first n
classes, as these are ordered by their logits at the best point, by the linearized boundary at the image and by that at
the best point; and the margin after the relaxed steps of the first cycle, as a share of the clean one.
"""

import argparse
import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.public import NETWORKS, images_of, network_of
from gauntlet.attacks.gauntlet import PROBABILITY, TRUE, Gauntlet, GauntletState, _plan
from gauntlet.attacks.linearized_boundary import nearest_classes
from gauntlet.attacks.projected_ascent import BestCandidates, RunCandidates
from gauntlet.attacks.relaxed_ball import RelaxedRun, RelaxedSearch
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Victim, plain

FAR, CHUNK, HOPELESS = 0.7, 500, (0.16, 0.06, 0.03)
"""Largest gap; images at once; share of the clean margin above which a sample is dropped in each cycle."""


def logged(state: GauntletState, index: torch.Tensor) -> Iterator[dict[str, float]]:
    """Yield a row for each of some samples, each class, and each cycle of its run."""
    logits = state.ranked_classes(index, "order")
    draw = state.rng.select(index).stream("nearest")
    places = [
        nearest_classes(state.head, point[index], state.y[index], 1000, state.threat.norm, draw)[0].argsort(1)
        for point in (state.x, state.best.z)
    ]  # the place of each class; that of the label is missing, so classes above it are one too low
    search = RelaxedSearch()
    for rank, target in enumerate(logits.unbind(1)):
        candidates, clean = RunCandidates.start(BestCandidates.start(state.x), index), state.clean[index].numpy()
        draw, around = state.rng.select(index).stream("run").stream(rank), state.threat.select(index)
        start = around.random(state.x[index], draw.stream("start"))
        run = RelaxedRun(
            state.head, candidates, state.x[index], state.y[index], target, clean, np.full_like(clean, np.inf), around,
            draw, start,
        )  # fmt: skip
        column = target - (target > state.y[index]).long()
        at = [place.gather(1, column[:, None]).squeeze(1) for place in places]
        for number, scale in enumerate(search.scales()[: len(HOPELESS)]):
            run.walk(search.steps, scale, 1 + scale, (number, "relaxed"))
            after = run.least / clean
            run.walk(search.steps, scale, 1.0, (number, "inside"))
            run.judge((number, "middle"))
            run.keep(run.margin <= HOPELESS[number] * run.clean)
            if len(run.z):
                run.shake(scale, (number, "shake"))
                run.walk(search.steps, scale, 1.0, (number, "again"))
            for place, sample in enumerate(index.tolist()):
                yield {
                    "sample": int(state.rng.ids[sample]), "cycle": number, "logits": rank, "image": int(at[0][place]),
                    "best": int(at[1][place]), "after": float(after[place]), "broken": bool(candidates.broken[place]),
                }  # fmt: skip


def runs_of(name: str, first: int, samples: int) -> pd.DataFrame:
    network, (data, threat) = network_of(name), NETWORKS[name]
    batch, victim = images_of(data, first, samples), Victim(plain(network), (network,))
    right = torch.cat([network(part).argmax(1) for part in batch.x.split(CHUNK)]) == batch.y
    rows: list[dict[str, float]] = []
    for at in right.nonzero().squeeze(1).split(CHUNK):
        ids, x, y = batch.ids[at], batch.x[at], batch.y[at]
        head = CountedHead(victim.heads[0], victim.predict, Counts.of(ids))
        state = GauntletState(head, x, y, threat, Rng(0, ids, "gauntlet"))
        state.run("screen", state.survivors(), _plan(TRUE, PROBABILITY, Gauntlet().steps))
        if len(index := state.survivors(state.gaps() <= FAR)):
            rows.extend(logged(state, index))
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", nargs="*", default=["natural_medium", "natural_small"])
    parser.add_argument("--first", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    write = sys.stdout.write
    for name in options.network:
        rows = runs_of(name, options.first, options.samples)
        fallen = rows[rows["broken"]]
        write(f"{name}: {rows['sample'].nunique()} near, {fallen['sample'].nunique()} fall\n")
        for order in ("logits", "image", "best"):
            least = fallen.groupby("sample")[order].min()
            write(f"  to the first 1, 2, 3, 4 by {order}: {', '.join(str((least < n).sum()) for n in (1, 2, 3, 4))}\n")
        first = rows[rows["cycle"] == 0].set_index(["sample", "logits"])
        falls = rows.groupby(["sample", "logits"])["broken"].any()
        write(f"  largest shares of those that fall: {first['after'][falls].nlargest(4).round(3).tolist()}\n")
        left = first[~first.index.get_level_values(0).isin(fallen["sample"])]["after"]
        for rank in range(4):
            shares = left.xs(rank, level="logits").quantile([0.05, 0.25, 0.5]).round(3).tolist()
            write(f"  of the rest, class {rank + 1} by logits, at 5, 25 and 50 %: {shares}\n")


if __name__ == "__main__":
    main()

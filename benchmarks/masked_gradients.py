"""When `gauntlet` may ask whether gradients are masked, and how early a search by queries shows that it will fail.

    python -m benchmarks.masked_gradients doubts [--model NAME ...] [--first 4000] [--samples 500]
    python -m benchmarks.masked_gradients queries [--model NAME ...] [--first 4000] [--samples 200] [--stripes]

`doubts`: survivors whose local linearity fails after the screen of `gauntlet`, after its other runs, and both times.
`queries`: Square attack of 5,000 queries on all that its gradients leave, from their best points with small squares, as
`gauntlet` makes it, or from stripes (`--stripes`). At the queries of each stop: the largest shares of the clean margin
and of the margin at the best point that stand of a sample that falls later, how many of these stand above the stop, and
how many of those that never fall are below it, and so asked on. Models are those of benchmarks.gauntlet.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.gauntlet import model_of
from benchmarks.public import images_of
from gauntlet.attacks.black_box.square import Square
from gauntlet.attacks.gauntlet import PROBABILITY, TRUE, Gauntlet, _plan
from gauntlet.attacks.gauntlet_state import GauntletState
from gauntlet.attacks.query_fallback import QueryFallback
from gauntlet.threat_model.access import narrowed
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.passes import HostIndex, HostValues
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Victim, plain

MODELS = {
    "doubts": (
        "natural_small", "natural_medium", "kw_small_8px", "at_resnet2b", "mnist_kw_0.3", "mnist_natural",
        "kw_small_36px_l2",
    ),
    "queries": ("mean sparse", "rounded pixels", "rippled logits"),
}  # fmt: skip


def attacked(model: str, options: argparse.Namespace) -> tuple[GauntletState, Tensor]:
    """Return the state after all runs of gradients, and the errors of the linear model after the screen, [B]."""
    network, data, threat = model_of(model, options.trained)
    batch, victim = images_of(data, options.first, options.samples), Victim(plain(network), (network,))
    head = CountedHead(victim.heads[0], victim.predict, Counts.of(batch.ids), batch_size=250)
    state, attack = GauntletState(head, batch.x, batch.y, threat, Rng(0, batch.ids, "masked")), Gauntlet()
    state.best.broken.logical_or_(state.clean <= 0)
    state.run("screen", state.survivors(), _plan(TRUE, PROBABILITY, attack.steps))
    index = state.survivors()
    errors = torch.zeros(len(batch.x), dtype=torch.double).index_copy(0, index, state.linearity_error(index))
    doubted = errors > attack.mismatch
    attack._search_near(state, ~doubted)
    for number in range(attack.rounds):
        attack._attempt(state, number, doubted)
    return state, errors


def doubts(model: str, options: argparse.Namespace) -> str:
    state, errors = attacked(model, options)
    index, bound = state.survivors(), Gauntlet().mismatch
    first, last = errors[index] > bound, state.linearity_error(index) > bound
    return f"{model}: {len(index)} survivors, {first.sum()} then, {last.sum()} at the end, {(first & last).sum()} both"


def queries(model: str, options: argparse.Namespace) -> Iterator[str]:
    state, _ = attacked(model, options)
    index, attack = state.survivors(), Square()
    clean, begun = state.clean[index].double(), state.best.margin[index].double()
    left: dict[int, Tensor] = {}

    def noted(query: int, rows: HostIndex, least: HostValues) -> None:
        if query in QueryFallback.STOPS:
            at = torch.from_numpy(rows)
            left[query] = torch.full_like(clean, -1).index_copy(0, at, torch.from_numpy(least).double())

    draw, x, y = state.rng.select(index).stream("queries"), state.x[index], state.y[index]
    head, around = narrowed(state.head, "score"), state.threat.select(index)
    start, ahead = (None, 0) if options.stripes else (state.best.z[index], QueryFallback.AHEAD)
    z = attack.search(head, x, y, threat=around, rng=draw, start=start, ahead=ahead, going_on=noted)
    falls = state.head.broken(z, state.head.scores(z, draw), y, draw, plain=True)
    yield f"{model}: {len(index)} survivors, {falls.sum()} fall"
    for query, (of_clean, of_start) in QueryFallback.STOPS.items():
        margin = left.get(query, torch.full_like(clean, -1))
        later, kept = falls & (margin >= 0), (margin <= of_clean * clean) & (margin <= of_start * begun)
        most = [f"{(margin / whole)[later].max():.2f}" if later.any() else "none" for whole in (clean, begun)]
        yield (
            f"  {query}: {later.sum()} later, of {' and '.join(most)}; above {of_clean} or {of_start}: "
            f"{(later & ~kept).sum()}, asked on: {(~falls & (margin >= 0) & kept).sum()}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=tuple(MODELS))
    parser.add_argument("--model", nargs="*")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--first", type=int, default=4000)
    parser.add_argument("--stripes", action="store_true")
    parser.add_argument("--trained", type=Path, default=Path("runs/_trained"))
    options = parser.parse_args()
    options.samples = options.samples or {"doubts": 500, "queries": 200}[options.what]
    torch.set_num_threads(1)
    for model in options.model or MODELS[options.what]:
        lines = [doubts(model, options)] if options.what == "doubts" else queries(model, options)
        for line in lines:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

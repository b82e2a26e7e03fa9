"""When `gauntlet` may ask whether gradients are masked, and how early a search by queries shows that it will fail.

    python -m benchmarks.masked_gradients doubts [--model NAME ...] [--first 4000] [--samples 500]
    python -m benchmarks.masked_gradients queries [--model NAME ...] [--first 4000] [--samples 200]

`doubts`: survivors whose local linearity fails after the screen of `gauntlet`, after its other runs, and both times.
`queries`: Square attack of 5,000 queries on all that its gradients leave. At the queries of each stop: the largest
share of the clean margin that stands of a sample that falls later, how many of these stand above the stop, and how many
of those that never fall are below it, and so asked on. Models are those of benchmarks.gauntlet.
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
    shares, clean = {}, state.clean[index].double()
    stops = {round(share * attack.queries): bound for share, bound in Gauntlet.STOPS}

    def noted(query: int, rows: HostIndex, least: HostValues) -> None:
        if query in stops:
            at = torch.from_numpy(rows)
            shares[query] = torch.full_like(clean, -1).index_copy(0, at, torch.from_numpy(least) / clean[at])

    draw, x, y = state.rng.select(index).stream("queries"), state.x[index], state.y[index]
    head, around = narrowed(state.head, "score"), state.threat.select(index)
    z = attack.search(head, x, y, threat=around, rng=draw, going_on=noted)
    falls = state.head.broken(z, state.head.scores(z, draw), y, draw, plain=True)
    yield f"{model}: {len(index)} survivors, {falls.sum()} fall"
    for query, bound in stops.items():
        share = shares.get(query, torch.full_like(clean, -1))
        later, asked = falls & (share >= 0), (~falls & (share <= bound)).sum()
        most = f"{share[later].max():.2f}" if later.any() else "none"
        yield f"  {query}: {most} of {later.sum()}, above {bound}: {(later & (share > bound)).sum()}, asked on: {asked}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=tuple(MODELS))
    parser.add_argument("--model", nargs="*")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--first", type=int, default=4000)
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

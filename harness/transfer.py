"""Who fools whom: `python -m harness.transfer runs` lays transfer runs side by side, sources against targets.

A row is a pair, one set of candidates; a column is a target. Runs of other kinds are left out.
"""

import argparse
import csv
import io
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.pairs import Pair, metrics, pairs_of, share
from harness.records import Manifest, find_runs, write_atomically

Key = tuple[str, str, str, str]
"""Data set, its digest, the selection, the threat: only runs with equal keys are compared."""

HEADER = (
    "dataset", "selection", "threat", "target", "target_victim", "attack", "source", "group", "source_victim", "set",
    "same_model", "samples", "right", "broken", "accuracy", "asr", "asr_both_right", "mean_l2",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One defended model under several pairs. pairs: identity of the set -> pair."""

    name: str
    victim: str
    pairs: dict[str, Pair]

    def itself(self, pair: Pair) -> bool:
        """Whether the candidates were crafted on this very model."""
        return any(source["victim"] == self.victim for source in pair.sources.values())


def collect(folders: Sequence[Path]) -> dict[Key, list[Target]]:
    """The targets of the finished transfer runs below these folders.

    Raises:
        UserError: there is no such run, or one is damaged.
    """
    found: dict[Key, dict[str, Target]] = defaultdict(dict)
    for run in dict.fromkeys(run for folder in folders for run in find_runs(folder)):
        manifest = run.manifest()
        if not manifest.get("sets") or manifest["status"] != "done":
            continue
        data, victim = manifest["dataset"], manifest["victim"]
        key = str(data["name"]), str(data["digest"]), str(data["selection"]), str(manifest["name"]["threat"])
        target = found[key].setdefault(victim, Target(_named(manifest), victim, {}))
        target.pairs.update({pair.identity: pair for pair in pairs_of(run, manifest)})
    if not found:
        places = ", ".join(map(str, folders))
        raise UserError(
            f"there is no finished transfer run below {places}; make one: "
            "python run.py attack=pgd defense=trades +defense@surrogates.plain=none"
        )
    return {key: _distinct(list(targets.values())) for key, targets in sorted(found.items())}


def matrix(targets: Sequence[Target]) -> Iterator[str]:
    """Target accuracy and attack success rate for each pair, then the metrics of each target."""
    rows = {identity: pair for target in targets for identity, pair in target.pairs.items()}
    labels = _labels(rows)
    wide = max(20, *(len(text) for text in labels.values()))
    yield f"{'attack/source':<{wide}}" + "".join(f"{target.name:>24}" for target in targets)
    for identity in sorted(rows, key=lambda each: labels[each]):
        yield f"{labels[identity]:<{wide}}" + "".join(_cell(target, identity) for target in targets)
    yield ""
    scores = [metrics(list(target.pairs.values())) for target in targets]
    yield f"{'mean over pairs':<{wide}}" + "".join(f"{score.mean:>24.2%}" for score in scores)
    yield f"{'strongest pair':<{wide}}" + "".join(
        f"{f'{score.strongest.stage} {score.strongest.accuracy:.2%}':>24}" for score in scores
    )
    yield f"{'union per sample':<{wide}}" + "".join(f"{score.union:>24.2%}" for score in scores)
    for group in sorted({pair.group for pair in rows.values()}):
        best = [_best(target, group) for target in targets]
        yield f"{f'strongest of {group}':<{wide}}" + "".join(f"{text:>24}" for text in best)
    if len({frozenset(target.pairs) for target in targets}) > 1:
        yield "the targets did not face the same pairs: their metrics are not comparable"


def _cell(target: Target, identity: str) -> str:
    pair = target.pairs.get(identity)
    if pair is None:
        return f"{'–':>24}"
    return f"{f'{pair.accuracy:.2%} / {pair.rate:.2%}' + ('*' if target.itself(pair) else ' '):>24}"


def _best(target: Target, group: str) -> str:
    mine = [pair for pair in target.pairs.values() if pair.group == group]
    return share(metrics(mine).strongest.accuracy if mine else None)


def table(found: dict[Key, list[Target]]) -> str:
    """Every cell as a row of CSV."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(HEADER)
    for (data, _, selection, threat), targets in found.items():
        for target in targets:
            for identity, pair in sorted(target.pairs.items(), key=lambda item: item[1].stage):
                attack, _, source = pair.stage.rpartition("/")
                victims = "+".join(str(each["victim"]) for each in pair.sources.values())
                writer.writerow([
                    data, selection, threat, target.name, target.victim, attack, source, pair.group, victims, identity,
                    int(target.itself(pair)), pair.samples, len(pair.right), len(pair.right) - len(pair.standing),
                    f"{pair.accuracy:.6f}", f"{pair.rate:.6f}", _number(pair.shared_rate), _number(pair.mean_length),
                ])  # fmt: skip
    return sink.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _named(manifest: Manifest) -> str:
    return f"{manifest['name']['defense']}"


def _distinct(targets: list[Target]) -> list[Target]:
    """Targets of the same name told apart by their hash."""
    names = [target.name for target in targets]
    told = [t if names.count(t.name) == 1 else Target(f"{t.name} {t.victim[:6]}", t.victim, t.pairs) for t in targets]
    return sorted(told, key=lambda target: target.name)


def _labels(rows: dict[str, Pair]) -> dict[str, str]:
    stages = [pair.stage for pair in rows.values()]
    return {i: pair.stage if stages.count(pair.stage) == 1 else f"{pair.stage} {i[-6:]}" for i, pair in rows.items()}


def main(arguments: list[str] | None = None) -> int:
    """Print a matrix for each data set and threat; 0 unless a mistake was made."""
    parser = argparse.ArgumentParser(prog="python -m harness.transfer", description="Lay transfer runs side by side.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of runs")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every cell there, too")
    options = parser.parse_args(arguments)
    try:
        found = collect(options.folders)
        for (data, _, selection, threat), targets in found.items():
            selected = "" if selection == "all" else f" ({selection})"
            sys.stdout.write(f"\n{data}{selected} · {threat} · target accuracy / attack success rate\n")
            sys.stdout.write("\n".join(matrix(targets)) + "\n")
        sys.stdout.write("\n* crafted on the target itself. Success rate: flipped, of what the target has right.\n")
        sys.stdout.write(
            "The attacker knows the surrogates and the attacks, not the target; gradients find far more.\n"
        )
        if options.csv:
            write_atomically(options.csv, table(found).encode())
            sys.stdout.write(f"table: {options.csv}\n")
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

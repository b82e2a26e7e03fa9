"""Who fools whom: `gauntlet transfer runs` lays transfer runs side by side, sources against targets.

A row is a pair, one set of candidates; a column is a target. Runs of other kinds are left out.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gauntlet.errors import UserError
from gauntlet.metrics.display import csv_row, distinct_names, number
from gauntlet.metrics.transfer_matrix import Key, Target, collect
from gauntlet.metrics.transfer_rates import Pair, metrics
from gauntlet.system.atomic_file import write_atomically

NOTE = """* crafted on the target, or on a network inside it; not in the metrics.
Success rate: flipped, of what the target has right as it is.
The attacker knows the surrogates and the attacks, never the target: gradients of the target find far more."""


HEADER = (
    "dataset", "selection", "threat", "target", "target_victim", "attack", "source", "group", "source_victim", "set",
    "white_box", "samples", "right", "broken", "accuracy", "asr", "asr_both_right", "mean_l2",
)  # fmt: skip


def matrix(targets: Sequence[Target]) -> Iterator[str]:
    """Target accuracy and attack success rate for each pair, then the metrics of each target."""
    rows = {identity: pair for target in targets for identity, pair in target.pairs.items()}
    labels = _labels(rows)
    groups = sorted({pair.group for pair in rows.values() if "+" not in pair.group})
    wide = max(20, *(len(text) for text in (*labels.values(), *(f"strongest of {group}" for group in groups)))) + 2
    columns = [max(20, len(target.name) + 2) for target in targets]

    def line(first: str, cells: Iterable[str]) -> str:
        return f"{first:<{wide}}" + "".join(f"{cell:>{size}}" for cell, size in zip(cells, columns, strict=True))

    yield line("attack/source", (target.name for target in targets))
    for identity in sorted(rows, key=lambda each: labels[each]):
        yield line(labels[identity], (_cell(target.pairs.get(identity)) for target in targets))
    yield ""
    scores = [metrics(list(target.pairs.values())) for target in targets]
    yield line("mean over pairs", (number(score and score.mean, ".2%") for score in scores))
    yield line("strongest pair", (number(score and score.strongest.accuracy, ".2%") for score in scores))
    yield line("", (score.strongest.label if score else "–" for score in scores))
    yield line("union per sample", (number(score and score.union, ".2%") for score in scores))
    for group in groups:
        yield line(f"strongest of {group}", (_best(target, group) for target in targets))


def _cell(pair: Pair | None) -> str:
    return "–" if pair is None else f"{pair.accuracy:.2%} / {pair.rate:.2%}{'*' if pair.white_box else ' '}"


def _best(target: Target, group: str) -> str:
    found = metrics([pair for pair in target.pairs.values() if pair.group == group])
    return number(found and found.strongest.accuracy, ".2%")


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
                writer.writerow(csv_row([
                    data, selection, threat, target.name, target.victim, attack, source, pair.group, victims, identity,
                    int(pair.white_box), pair.samples, len(pair.right), len(pair.right) - len(pair.survivors),
                    f"{pair.accuracy:.6f}", f"{pair.rate:.6f}", _number(pair.shared_rate), _number(pair.mean_length),
                ]))  # fmt: skip
    return sink.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _labels(rows: dict[str, Pair]) -> dict[str, str]:
    """Return identity -> the label of a pair."""
    labels = distinct_names([pair.label for pair in rows.values()], [identity[-6:] for identity in rows])
    return dict(zip(rows, labels, strict=True))


def main(arguments: list[str] | None = None) -> int:
    """Print a matrix for each data set and threat; 0 unless a mistake was made."""
    parser = argparse.ArgumentParser(prog="gauntlet transfer", description="Lay transfer runs side by side.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of runs")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every cell there, too")
    options = parser.parse_args(arguments)
    try:
        found = collect(options.folders)
        for (data, _, selection, threat), targets in found.items():
            selected = "" if selection == "all" else f" ({selection})"
            sys.stdout.write(f"\n{data}{selected} · {threat} · target accuracy / attack success rate\n")
            sys.stdout.write("\n".join(matrix(targets)) + "\n")
        sys.stdout.write(f"\n{NOTE}\n")
        if options.csv:
            write_atomically(options.csv, table(found).encode())
            sys.stdout.write(f"table: {options.csv}\n")
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1
    return 0

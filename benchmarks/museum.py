"""Broken claims: what the evaluation that is usually claimed reports of models that hide or reject, and what ours does.

    python -m benchmarks.museum [--pages DIR] [--only NAME] [--images 200] [--skip 0]
    python -m benchmarks.museum --only NAME --seeds 5 [--images 159] [--skip 200]

Models stand around the shipped networks of digits (`benchmarks/museum_exhibits.py`), or are trained first, which takes
seconds and is kept in `runs` (`benchmarks/museum_trainings.py`). Claimed: PGD of 20 steps on the deployed forward,
or on the network without its detector. Ours: `attack=gauntlet`, on every declared head. Beside them stand attacks that
are known to undo the kind. With --pages each has a page of its own; --seeds compares `gauntlet` with the first known
attack.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.museum_exhibits import EXHIBITS, Exhibit, Reference
from gauntlet.attacks.gauntlet import Gauntlet
from gauntlet.commands.calibration import Setting
from gauntlet.data.dataset import Batch
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.metrics.confidence import wilson
from gauntlet.metrics.randomized_result import WorstCandidates
from gauntlet.threat_model.attack import Attack, Coverage
from gauntlet.threat_model.victim import Victim

COLUMNS = ("model", "clean", "claimed", "best known", "ours", "hidden", "broken by")


class Left(NamedTuple):
    """The share of the images that is left, and its 95 % interval over images."""

    share: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """What was measured of an exhibit: shares of the images that are left, and what broke the others."""

    exhibit: Exhibit
    images: int
    clean: Left
    claimed: Left
    ours: Left
    known: dict[str, Left]
    broken_by: dict[str, float]  # head and phase -> images, in the order in which they had their turn

    @property
    def best(self) -> float:
        """Return what the strongest known attack leaves."""
        return min(found.share for found in self.known.values())


def left(table: pa.Table) -> Left:
    """Return the share of the images that no stage breaks, of a randomized victim the expected share of right answers
    on the worst candidates."""
    assert table["error"].null_count == len(table)
    worst = WorstCandidates.of(table)
    if worst is not None:
        found = worst.accuracy()
        return Left(found.mean, found.interval)
    rows = table.to_pandas()
    count, broken = rows["sample"].nunique(), rows[rows["broken"]]["sample"].nunique()
    return Left(1 - broken / count, wilson(count - broken, count))


def broken_by(table: pa.Table) -> dict[str, float]:
    """Return head and phase, and the images that they broke; each meets what earlier ones left.

    Of a randomized victim: the head, and what its candidates add to the expected number of wrong answers.
    """
    rows = table.to_pandas()
    if "fresh_share" in rows:
        wrong = rows.pivot_table(index="sample", columns="stage", values="fresh_share", sort=False)
        worst = wrong.cummax(axis=1).sum().diff().iloc[1:]  # the first column is the clean stage
        return {str(stage).partition("/")[2]: float(taken) for stage, taken in worst.items() if taken > 0}
    clean = rows[(rows["stage"] == CLEAN_STAGE) & rows["broken"]]["sample"]
    broken = rows[rows["broken"] & ~rows["sample"].isin(clean) & (rows["stage"] != CLEAN_STAGE)]
    broken = broken.drop_duplicates("sample")
    phase = broken["phase"].fillna("") if "phase" in broken else broken["stage"].str.slice(0, 0)
    counts = (broken["stage"].str.partition("/")[2] + " " + phase).str.strip().value_counts()
    return {str(name): int(count) for name, count in counts.items()}


def evaluated(
    victim: Victim, name: str, attack: Attack, batch: Batch, setting: Setting, heads: str = "declared", seed: int = 0
) -> pa.Table:
    """Return the records of an attack; `gauntlet` meets what earlier heads left, others every sample that is right, and
    all meet every sample of a randomized victim."""
    coverage: Coverage = "all" if victim.randomized else "standing" if name == "gauntlet" else "correct"
    run = Evaluation(victim, (name, attack), setting.threat, 10, seed, heads=heads, coverage=coverage, batch_size=512)
    return evaluate_chunk(run, batch).rows


def claimed(victim: Victim, exhibit: Exhibit, batch: Batch, setting: Setting) -> pa.Table:
    """Return the records of the usual attack on the head of the exhibit; of a defense that rejects, on the network
    without its detector."""
    head = "classifier" if victim.accepts else exhibit.head
    rows = evaluated(victim, "pgd", exhibit.usual, batch, setting, "true" if head == "true" else "declared")
    return rows.filter(pc.is_in(rows["stage"], pa.array([CLEAN_STAGE, f"pgd/{head}"])))


def by_reference(victim: Victim, reference: Reference, batch: Batch, setting: Setting, seed: int = 0) -> Left:
    """Return what a known attack leaves: on the heads that it has, else on all that are declared."""
    if not reference.heads:
        return left(evaluated(victim, "known", reference.attack, batch, setting, seed=seed))
    given = replace(victim, surrogates=reference.heads)
    rows = evaluated(given, "known", reference.attack, batch, setting, seed=seed)
    return left(rows.filter(pc.not_equal(rows["stage"], "known/true")))


def measured(exhibit: Exhibit, images: int, skip: int) -> Measured:
    """Return what is left of an exhibit by each evaluation."""
    setting = Setting.of("none", ["dataset=digits"])
    batch = setting.dataset.split("test").read(slice(skip, skip + images))
    victim, references = exhibit.make()
    first = claimed(victim, exhibit, batch, setting)
    ours = evaluated(victim, "gauntlet", Gauntlet(), batch, setting)
    clean = first.filter(pc.equal(first["stage"], CLEAN_STAGE))
    known = {each.name: by_reference(victim, each, batch, setting) for each in references}
    return Measured(exhibit, len(batch.ids), left(clean), left(first), left(ours), known, broken_by(ours))


def by_seed(exhibit: Exhibit, images: int, skip: int, seeds: int) -> Iterator[str]:
    """Yield a table of what `gauntlet` and the first known attack leave, by seed."""
    setting = Setting.of("none", ["dataset=digits"])
    batch = setting.dataset.split("test").read(slice(skip, skip + images))
    victim, (reference, *_) = exhibit.make()
    yield f"| seed | gauntlet | {reference.name} |\n|---|---|---|"
    total = [0.0, 0.0]
    for seed in range(seeds):
        ours = evaluated(victim, "gauntlet", Gauntlet(), batch, setting, seed=seed)
        shares = left(ours).share, by_reference(victim, reference, batch, setting, seed).share
        total = [before + share for before, share in zip(total, shares, strict=True)]
        yield f"| {seed} | {shares[0]:.2%} | {shares[1]:.2%} |"
    yield f"| mean | {total[0] / seeds:.2%} | {total[1] / seeds:.2%} |"


def row(found: Measured) -> str:
    """Return the row of the table."""
    most = list(found.broken_by.items())[:3]
    cells = (
        found.exhibit.title, f"{found.clean.share:.1%}", f"{found.claimed.share:.1%}", f"{found.best:.1%}",
        f"{found.ours.share:.1%}", f"{100 * (found.claimed.share - found.ours.share):.1f}",
        ", ".join(f"{name} {count:.3g}" for name, count in most) or "nothing",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def page(found: Measured, command: str) -> Iterator[str]:
    """Yield the lines of the page of an exhibit."""
    best = min(found.known, key=lambda name: found.known[name].share)
    yield f"# A broken claim: {found.exhibit.title}"
    yield ""
    yield f"    {command}"
    yield ""
    yield found.exhibit.about
    yield ""
    yield f"Left of {found.images} test images of `digits`, linf 0.15, with 95 % intervals over images:"
    yield ""
    yield "| evaluation | left | interval |"
    yield "|---|---|---|"
    shares = {
        "none (clean)": found.clean, f"claimed: {found.exhibit.claim}": found.claimed,
        "ours: `attack=gauntlet`, every head": found.ours,
        **{f"known: {name}": share for name, share in found.known.items()},
    }  # fmt: skip
    for name, (share, (low, high)) in shares.items():
        yield f"| {name} | {share:.1%} | {low:.1%} to {high:.1%} |"
    yield ""
    yield "| what broke it | images |"
    yield "|---|---|"
    yield from (f"| {name} | {count:.3g} |" for name, count in found.broken_by.items())
    yield ""
    gap = round(100 * (found.ours.share - found.best), 1)
    more = f"**A miss**: ours leaves {gap} points more than" if gap > 0 else "Ours leaves no more than"
    yield f"{more} the strongest known attack here ({best}, {found.best:.1%})."


def main() -> int:
    """Print the table, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, metavar="DIR", help="write a page for each")
    parser.add_argument("--only", choices=EXHIBITS, action="append")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--skip", type=int, default=0, help="images before the first")
    parser.add_argument("--seeds", type=int, default=0, help="compare with the first known attack over so many seeds")
    options = parser.parse_args()
    for name in options.only or EXHIBITS if options.seeds else ():
        for line in by_seed(EXHIBITS[name], options.images, options.skip, options.seeds):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    if options.seeds:
        return 0
    sys.stdout.write("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS) + "\n")
    for name in options.only or EXHIBITS:
        found = measured(EXHIBITS[name], options.images, options.skip)
        sys.stdout.write(row(found) + "\n")
        sys.stdout.flush()
        if options.pages:
            options.pages.mkdir(parents=True, exist_ok=True)
            command = f"python -m benchmarks.museum --pages {options.pages} --only {name}"
            command += f" --images {options.images}" if options.images != parser.get_default("images") else ""
            command += f" --skip {options.skip}" if options.skip else ""
            (options.pages / f"{name}.md").write_text("\n".join(page(found, command)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

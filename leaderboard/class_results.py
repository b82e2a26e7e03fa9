"""Robust accuracy of each class of an entry, the lowest of them, and where the broken samples of each class end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.sample_verdicts import Bools, locate
from gauntlet.metrics.confidence import wilson
from gauntlet.metrics.display import class_name
from gauntlet.metrics.worst_class import WorstClass, worst_class

LARGEST = 20
"""Classes up to which the confusion matrix is drawn whole; of more, the most frequent pairs are listed."""

PAIRS = 15
"""Pairs of classes in that list, and classes in its table."""


@dataclass(frozen=True)
class ClassLine:
    """One class: its samples, and what becomes of them. `to` counts broken samples by the class that they reach, where
    the matrix is drawn."""

    label: int
    name: str
    samples: int
    robust: int
    wrong: int  # without an attack
    to: tuple[int, ...]  # in the order of the lines

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of this class's robust accuracy (Wilson)."""
        return wilson(self.robust, self.samples)


@dataclass(frozen=True)
class ClassResults:
    """All classes of an entry, in the order of their numbers; `pairs` are (from, to, samples), most frequent first."""

    lines: tuple[ClassLine, ...]
    pairs: tuple[tuple[str, str, int], ...]
    worst: WorstClass
    worst_name: str

    @property
    def drawn(self) -> bool:
        """Return whether a matrix of all classes can be read."""
        return len(self.lines) <= LARGEST

    @property
    def lowest(self) -> tuple[ClassLine, ...]:
        """Return the classes of the lowest robust accuracy, lowest first."""
        known = [line for line in self.lines if line.samples]
        return tuple(sorted(known, key=lambda line: (line.robust / line.samples, line.label))[:PAIRS])

    @property
    def most(self) -> int:
        """Return the largest count off the diagonal, which gives the darkest cell."""
        return max((count for line in self.lines for count in line.to), default=0)


def counts(entry: Entry) -> dict[int, tuple[int, int]]:
    """Return label -> (samples, robust ones)."""
    samples, robust = (_by_class(entry, of) for of in (None, locate(entry.ids, entry.robust_ids)[1]))
    return {label: (count, robust.get(label, 0)) for label, count in samples.items()}


def _by_class(entry: Entry, of: Bools | None = None) -> dict[int, int]:
    """Return label -> samples, those with a known label. of: bool [n], which count; None: all."""
    label = entry.facts.label if of is None else entry.facts.label[of]
    labels, count = np.unique(label[label >= 0], return_counts=True)
    return dict(zip(labels.tolist(), count.tolist(), strict=True))


def class_names(entry: Entry) -> Sequence[str]:
    """Return the names of the data set's classes; empty where it has none."""
    found = entry.runs[0].run.manifest["dataset"].get("class_names", [])
    return found if isinstance(found, list) else []


def worst_of(entry: Entry) -> tuple[WorstClass, str] | None:
    """Return the class of the lowest robust accuracy with its name.

    None where there is no accuracy of single classes: without an eps, with samples that lack an answer, for randomized
    defenses, which have no verdict on a sample, and with one class alone.
    """
    if entry.threat.unbounded or entry.open or entry.expected or entry.unknown:
        return None
    of = counts(entry)
    found = worst_class(of) if len(of) > 1 else None
    return None if found is None else (found, class_name(found.label, class_names(entry)))


def class_results(entry: Entry) -> ClassResults | None:
    """Return what becomes of each class; None where `worst_of` knows none."""
    worst = worst_of(entry)
    if worst is None:
        return None
    facts, names = entry.facts, class_names(entry)
    broken = locate(entry.ids, entry.broken_ids)[1] & ~entry.clean_wrong & (facts.label >= 0) & (facts.reached >= 0)
    ways, times = np.unique(np.stack([facts.label[broken], facts.reached[broken]]), axis=1, return_counts=True)
    flow = {(int(label), int(other)): int(count) for (label, other), count in zip(ways.T, times, strict=True)}
    known, wrong = counts(entry), _by_class(entry, entry.clean_wrong)
    shown = sorted(set(known) | {other for _, other in flow})
    matrix = shown if len(shown) <= LARGEST else []
    lines = tuple(
        ClassLine(
            label=label,
            name=class_name(label, names),
            samples=known.get(label, (0, 0))[0],
            robust=known.get(label, (0, 0))[1],
            wrong=wrong.get(label, 0),
            to=tuple(flow.get((label, other), 0) for other in matrix),
        )
        for label in shown
    )
    often = sorted(flow.items(), key=lambda way: (-way[1], way[0]))[:PAIRS]
    pairs = tuple((class_name(label, names), class_name(other, names), count) for (label, other), count in often)
    return ClassResults(lines, pairs, *worst)

"""Entries of one table side by side on the same samples: every pair, and which samples are broken by whom."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.sample_verdicts import Bools, Ints, locate
from gauntlet.metrics.paired_comparison import PairComparison, class_agreement, compare_pairs, venn


@dataclass(frozen=True, eq=False)
class Comparison:
    """Entries side by side.

    Attributes:
        entries: in the order in which positions count.
        pairs: every pair, p adjusted by Holm over all of them.
        agreement: of each pair, how many of the samples that attacks broke in both reach the same class in both, and
            how many those are.
        overlap: positions of entries -> samples that exactly these lose to an attack; those that none loses are left
            out, and so are, for each entry, those that it gets wrong without an attack.
    """

    entries: tuple[Entry, ...]
    pairs: tuple[PairComparison, ...]
    agreement: tuple[tuple[int, int], ...]
    overlap: dict[tuple[int, ...], int]


def unfit(entry: Entry) -> str:
    """Return why an entry has no verdict on each sample to compare; empty where it has."""
    if entry.threat.unbounded:
        return "it has no eps"
    if entry.expected is not None:
        return "its predictions are random: a sample has no single verdict"
    return f"{entry.open} of {entry.n} samples have no answer yet" if entry.open else ""


def compared(entries: Sequence[Entry]) -> Comparison:
    """Compare entries on the same samples under the same threat, each with a verdict on every sample."""
    ids = np.unique(np.concatenate([entry.ids for entry in entries]))
    robust = np.array([locate(ids, entry.robust_ids)[1] for entry in entries])
    lost = np.array([_lost(entry, ids) for entry in entries])
    reached = np.array([_reached(entry, ids) for entry in entries])
    pairs = compare_pairs(robust, entries[0].n)
    agreement = [
        class_agreement(*(np.where(lost[i], reached[i], -1).tolist() for i in (pair.first, pair.second)))
        for pair in pairs
    ]
    return Comparison(tuple(entries), tuple(pairs), tuple(agreement), {k: v for k, v in venn(lost).items() if k})


def _lost(entry: Entry, ids: Ints) -> Bools:
    """Return which samples an attack broke, those left out that are wrong without one."""
    lost: Bools = locate(ids, entry.broken_ids)[1] & ~locate(ids, entry.ids[entry.clean_wrong])[1]
    return lost


def _reached(entry: Entry, ids: Ints) -> Ints:
    place, there = locate(ids, entry.ids)
    return np.where(there, entry.facts.reached[place], -1).astype(np.int64)

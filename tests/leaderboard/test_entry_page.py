"""What the page of an entry says of classes, stages, margins and runs, from records alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.__main__ import main
from gauntlet.leaderboard.class_results import class_results, worst_of
from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.examples import gallery
from gauntlet.leaderboard.margin_histogram import margin_histogram
from gauntlet.leaderboard.stage_flow import flow
from gauntlet.metrics.confidence import lower

Make = Callable[..., RunFolder]
Scored = Callable[[], list[Entry]]


def third(sample: int) -> int:
    return sample % 3


def test_each_sample_of_a_class_is_robust_wrong_or_on_its_way_to_another_class(make: Make, entries: Scored) -> None:
    make(ids=range(30), wrong=[0], broken=[1, 4, 7, 2, 3], label=third)
    (entry,) = entries()
    found = class_results(entry)
    assert found is not None
    zero, one, two = found.lines
    assert (zero.samples, zero.robust, zero.wrong, zero.to) == (10, 8, 1, (0, 0, 1))
    assert (one.samples, one.robust, one.wrong, one.to) == (10, 7, 0, (0, 0, 3))
    assert (two.samples, two.robust, two.wrong, two.to) == (10, 9, 0, (0, 1, 0))
    assert found.pairs == (("1", "2", 3), ("0", "2", 1), ("2", "1", 1))
    assert (found.worst.label, found.worst.robust, found.worst.samples) == (1, 7, 10)
    assert found.worst.interval[0] == pytest.approx(float(lower(7, 10, 0.05 / 6)))


def test_of_many_classes_the_most_frequent_ways_are_listed(make: Make, entries: Scored) -> None:
    make(ids=range(60), broken=range(0, 60, 30), label=lambda sample: sample % 30)
    (entry,) = entries()
    found = class_results(entry)
    assert found is not None
    assert not found.drawn
    assert {line.to for line in found.lines} == {()}
    assert [(before, count) for before, _, count in found.pairs] == [("0", 2)]
    assert (found.lowest[0].label, found.lowest[0].robust, found.lowest[0].samples) == (0, 0, 2)


def test_there_is_no_worst_class_where_samples_have_no_verdict(make: Make, entries: Scored) -> None:
    make(defense="open", ids=range(12), broken=[1], errors={2: "boom"}, label=third)
    make(defense="far", eps="unbounded", ids=range(12), broken=[1], label=third)
    make(defense="alone", ids=range(12), broken=[1])
    make(defense="random", ids=range(12), shares=lambda sample, stage: (0.2, 0.2))
    assert len(entries()) == 4
    assert [worst_of(entry) for entry in entries()] == [None] * 4


def test_the_nearest_example_says_where_a_sample_ends(make: Make, entries: Scored) -> None:
    """Of two runs, of which the second lies nearer and reaches another class."""
    make(attack="pgd", ids=range(6), broken=[1], distance=0.03, label=third)
    run = make(attack="fab", ids=range(6), broken=[1], distance=0.01, label=lambda sample: 2 if sample == 1 else 0)
    assert run.present()
    (entry,) = entries()
    at = entry.ids.tolist().index(1)
    assert (entry.facts.label[at], entry.facts.reached[at]) == (2, 1)  # of the first by name, and of the nearest


def test_a_bar_adds_up_to_the_samples(make: Make, entries: Scored) -> None:
    make(ids=range(20), wrong=[0, 1], broken={"pgd/true": [2, 3, 4], "pgd/mean": [5]}, stages=["pgd/true", "pgd/mean"])
    make(attack="late", ids=range(20), chunks=[0], change={"status": "running"})
    (entry,) = entries()
    (bar,) = flow(entry)
    assert [(each.kind, each.title, each.count, each.start) for each in bar.segments] == [
        ("wrong", "wrong without an attack", 2, 0),
        ("broken", "pgd/true", 3, 2),
        ("broken", "pgd/mean", 1, 5),
        ("robust", "not broken", 14, 6),
    ]


def test_margins_count_the_samples_that_are_right_without_an_attack(make: Make, entries: Scored) -> None:
    make(ids=range(30), wrong=[29], broken=range(10))
    (entry,) = entries()
    bins = margin_histogram(entry)
    assert (sum(bin.robust for bin in bins), sum(bin.broken for bin in bins)) == (19, 10)
    assert bins[0].low == 0
    assert (bins[-1].robust > 0, bins[-1].broken) == (True, 0)  # the records give sample i a margin of 1 + i
    assert bins[-1].high > 29


def test_runs_are_told_in_the_order_in_which_they_ended(make: Make, entries: Scored) -> None:
    make(attack="pgd", ids=range(20), broken=[1, 2], change={"finished": "2026-01-07T10:00:00Z"})
    make(attack="fgsm", ids=range(20), broken=[2], change={"finished": "2026-01-06T10:00:00Z"})
    make(attack="fab", ids=range(20), broken=[3], heads="true", change={"finished": "2026-01-08T10:00:00Z"})
    (entry,) = entries()
    assert {line.run.attack: line.after for line in entry.runs} == {"fgsm": 19, "pgd": 18, "fab": None}


def test_examples_of_every_stage_and_class_come_first(make: Make, entries: Scored) -> None:
    def pictures(sample: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.full((1, 4, 4), 0.5, np.float32)
        return x, x + np.float32(0.002 * (sample % 10))

    stages = ["pgd/true", "pgd/mean"]
    broken = {"pgd/true": range(40), "pgd/mean": range(40, 50)}
    make(ids=range(60), stages=stages, broken=broken, chunk=60, images=pictures, label=third, norm="l2", eps="0.5")
    (entry,) = entries()
    shown = gallery(entry, [])
    kinds = {(each.record.stage, each.label) for each in shown.pictures}
    assert kinds == {(stage, str(label)) for stage in stages for label in range(3)}
    assert len(shown.pictures) == 24
    largest = max(0.002 * (each.record.sample % 10) for each in shown.pictures)
    assert abs(shown.scale - largest) < 1e-6  # no bound of single pixels: the largest change of the page


def test_the_page_names_the_worst_class_and_what_to_do_next(make: Make, runs: Path, tmp_path: Path) -> None:
    make(defense="trades", ids=range(30), broken=[1, 4, 7], label=third)
    make(defense="none", ids=range(30), broken=[1], label=third, change={"flags": [{"name": "zero-gradients"}]})
    assert main(["--runs", str(runs), "--out", str(tmp_path / "site")]) == 0
    (page,) = (tmp_path / "site").glob("entries/*trades*.html")
    text = page.read_text()
    assert "Worst class: 1" in text
    assert "python run.py attack=pgd defense=trades seed=0" in text
    assert "gauntlet verify runs/digits/linf-8_255/trades/pgd/declared-all-0" in text
    assert 'data-label="Worst class"' in (tmp_path / "site" / "index.html").read_text()
    (page,) = (tmp_path / "site").glob("entries/*none*.html")
    assert "attacks harder: the flag zero-gradients" in page.read_text()

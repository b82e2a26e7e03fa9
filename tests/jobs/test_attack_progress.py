"""The bar of an attack run counts images, and the time left follows what stages cost."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

from gauntlet.jobs.attack_progress import AttackProgress, prior


@dataclass
class Knobs:
    steps: int = 10
    restarts: int = 2
    targets: Any = None


class Counted:
    """A bar that remembers."""

    def __init__(self) -> None:
        self.at, self.text = 0, ""

    def update(self, count: int) -> None:
        assert count >= 0
        self.at += count

    def note(self, text: str, refresh: bool = True) -> None:
        self.text = text


def rows(broken: list[int], error: str | None = None) -> pa.Table:
    return pa.table({
        "sample": [0, 1, 2, 3, *broken], "broken": [False] * 4 + [True] * len(broken),
        "error": pa.array([error] + [None] * (3 + len(broken)), pa.string()),
    })  # fmt: skip


def test_knobs_weigh_a_stage_before_it_ran() -> None:
    assert prior(Knobs()) == 20
    assert prior(Knobs(targets=9)) == 180
    assert prior(object()) == 1


def test_images_are_counted_by_the_cost_of_stages() -> None:
    progress, bar = AttackProgress({"a/true": Knobs(9, 1), "b/true": Knobs(90, 1)}), Counted()
    chunk = progress.chunk(bar, 100)  # type: ignore[arg-type]
    chunk.advance("clean", 100)
    assert bar.at == 1
    chunk.advance("a/true", 100)
    assert bar.at == 10
    chunk.advance("b/true", 50)
    assert (bar.at, bar.text) == (55, "b/true")
    progress.done(rows([3]), {"clean": 1.0, "a/true": 8.0, "b/true": 1.0})
    chunk.close()
    assert bar.at == 100
    chunk = progress.chunk(bar, 100)  # type: ignore[arg-type]
    chunk.advance("clean", 100)
    chunk.advance("a/true", 100)
    assert (bar.at, bar.text) == (190, "robust 75.0 % (30.1-95.4), a/true")  # measured: nine tenths are done


def test_a_stage_without_a_weight_moves_nothing() -> None:
    progress, bar = AttackProgress({"a/true": Knobs()}), Counted()
    chunk = progress.chunk(bar, 10)  # type: ignore[arg-type]
    chunk.advance("craft", 10)
    assert bar.at == 0
    assert progress.share({"clean": 10, "a/true": 10}, 10) == pytest.approx(1)


def test_no_accuracy_is_shown_where_there_is_none() -> None:
    """Of a randomized defense or an unbounded threat, and after an error, whose sample has no answer."""
    seconds = {"clean": 1.0, "a/true": 8.0}
    known, without, failed = (AttackProgress({"a/true": Knobs()}, counts) for counts in (True, False, True))
    known.done(rows([3]), seconds)
    without.done(rows([3]), seconds)
    failed.done(rows([3]), seconds)
    failed.done(rows([3], error="NaN"), seconds)
    assert known.words() == "robust 75.0 % (30.1-95.4), "
    assert without.words() == failed.words() == ""

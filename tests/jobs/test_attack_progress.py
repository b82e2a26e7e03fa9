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
        "stage": ["clean"] * 4 + ["a/true"] * len(broken),
        "error": pa.array([error] + [None] * (3 + len(broken)), pa.string()),
    })  # fmt: skip


def test_knobs_weigh_a_stage_before_it_ran() -> None:
    assert prior(Knobs()) == 20
    assert prior(Knobs(targets=9)) == 180
    assert prior(object()) == 1


def run_chunk(progress: AttackProgress, bar: Counted, images: int, due: dict[str, int]) -> list[int]:
    """Say what a chunk does, a quarter of each stage at a time; return what the bar showed after each."""
    chunk, shown = progress.chunk(bar, images), []  # type: ignore[arg-type]
    for stage, count in due.items():
        chunk.advance(stage, 0, count)
        for _ in range(4):
            chunk.advance(stage, count // 4, count)
            shown.append(bar.at)
    chunk.close()
    return shown


def ended(due: dict[str, int], images: int) -> pa.Table:
    """The rows of such a chunk."""
    stages = [stage for stage, count in due.items() for _ in range(count)]
    samples = [number for count in due.values() for number in range(count)]
    return pa.table({"sample": samples, "stage": stages, "broken": [False] * len(stages),
                     "error": pa.array([None] * len(stages), pa.string())})  # fmt: skip


def test_a_costly_stage_that_comes_late_is_not_promised_away() -> None:
    """Eighteen seconds that took six minutes: the first stage is a hundredth of the work, and so of the images."""
    progress, bar = AttackProgress({"fast/true": Knobs(10, 1), "slow/true": Knobs(1000, 1)}), Counted()
    shown = run_chunk(progress, bar, 400, {"clean": 400, "fast/true": 400, "slow/true": 400})
    assert shown[:8] == [0, 0, 0, 0, 1, 2, 3, 4]
    assert shown[8:] == [103, 202, 301, 400]


def test_samples_that_a_stage_need_not_attack_are_no_work_done() -> None:
    """47 seconds that took 4:33: the first stage broke nine tenths, and these were counted for all that follow."""
    progress, bar = AttackProgress({"a/true": Knobs(10, 1), "b/true": Knobs(100, 1)}), Counted()
    due = {"clean": 400, "a/true": 400, "b/true": 40}
    shown = run_chunk(progress, bar, 400, due)
    assert shown[8:] == [257, 304, 352, 400]  # of 8,400 passes 4,400 are spent when b begins
    progress.done(ended(due, 400), {"clean": 1.0, "a/true": 1.0, "b/true": 8.0})
    before = bar.at
    shown = [at - before for at in run_chunk(progress, bar, 400, due)]
    assert shown[:8] == [10, 20, 30, 40, 50, 60, 70, 80]  # measured: two tenths of the time, from the beginning
    assert shown[8:] == [160, 240, 320, 400]


def test_the_bar_counts_images_and_not_stages() -> None:
    """0/2154 samples of 359 images: the sum is what there is, however many stages attack however many of them."""
    progress, bar = AttackProgress({f"{name}/true": Knobs(3, 1) for name in "abcdef"}), Counted()
    due = {"clean": 359} | {f"{name}/true": 359 - 50 * at for at, name in enumerate("abcdef")}
    for _ in range(3):
        shown = run_chunk(progress, bar, 359, due)
        assert shown == sorted(shown)
        progress.done(ended(due, 359), dict.fromkeys(due, 1.0))
    assert bar.at == 3 * 359


def test_the_accuracy_so_far_stands_beside_the_stage() -> None:
    progress, bar = AttackProgress({"a/true": Knobs(9, 1)}), Counted()
    progress.done(rows([3]), {"clean": 1.0, "a/true": 9.0})
    progress.chunk(bar, 100).advance("a/true", 0, 100)  # type: ignore[arg-type]
    assert bar.text == "robust 75.0 % (30.1-95.4), a/true"


def test_a_stage_without_a_weight_moves_nothing() -> None:
    progress, bar = AttackProgress({"a/true": Knobs()}), Counted()
    chunk = progress.chunk(bar, 10)  # type: ignore[arg-type]
    chunk.advance("craft", 10)
    assert bar.at == 0
    due = {"clean": 10, "a/true": 10}
    assert progress.share(due, due, 10) == pytest.approx(1)


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

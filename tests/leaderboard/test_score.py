"""The worst case per sample, from records whose verdicts are known."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.collect import collect, discover
from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.formatting import address, anchor
from gauntlet.leaderboard.score import boards, pools, score

Make = Callable[..., RunFolder]
Entries = Callable[[], list[Entry]]


def test_the_number_is_the_worst_case_per_sample_and_not_the_smallest_mean(make: Make, entries: Entries) -> None:
    """20 samples, 2 wrong as they are; pgd breaks 4, pma breaks 3, one of them the same: 20 - 2 - 6 = 12 stand."""
    make(attack="pgd", wrong=[0, 1], broken=[2, 3, 4, 5])
    make(attack="pma", wrong=[0, 1], broken=[5, 6, 7])
    (entry,) = entries()
    assert (entry.n, entry.clean, entry.robust, entry.open) == (20, 18, 12, 0)
    assert entry.robust_ids.tolist() == list(range(8, 20))
    assert [(a.column, a.survivors, a.open) for a in entry.attacks] == [("pgd", 14, 0), ("pma", 15, 0)]
    assert [line.alone for line in entry.runs] == [3, 2]
    assert entry.interval == pytest.approx((0.3866, 0.7812), abs=5e-5)
    assert entry.reasons == ()


def test_targeted_runs_have_tables_of_their_own(make: Make, entries: Entries) -> None:
    """Two targeted runs and one untargeted on the same model: neither sees the adversarial examples of the other."""
    threat = {"norm": "linf", "eps": "8/255", "radius": 8 / 255, "low": 0.0, "high": 1.0}
    make(attack="pgd", broken=[0, 1, 2])
    make(attack="pgd", broken=[3], seed=1, change={"threat": threat | {"target": "random"}})
    make(attack="pma", broken=[4], seed=1, change={"threat": threat | {"target": "random"}})
    make(attack="pma", broken=[5], seed=2, change={"threat": threat | {"target": "least_likely"}})
    tables = {board.eps: board for board in boards(entries(), "any")}
    robust = {eps: [entry.robust for entry in board.entries] for eps, board in tables.items()}
    plain = "8/255"
    assert robust == {plain: [17], f"{plain}, targeted (random)": [18], f"{plain}, targeted (least likely)": [19]}
    assert len({address(board.entries[0]) for board in tables.values()} | {anchor(b) for b in tables.values()}) == 6


def test_any_stage_of_a_run_breaks_a_sample(make: Make, entries: Entries) -> None:
    make(attack="pma", stages=["pma/true", "pma/robust"], broken={"pma/true": [1, 2], "pma/robust": [2, 3]})
    (entry,) = entries()
    assert entry.robust == 17
    stages = {stage.name: (stage.attacked, stage.successes) for stage in entry.runs[0].stages}
    assert stages == {"clean": (20, 0), "pma/true": (20, 2), "pma/robust": (18, 1)}


def test_cost_is_counted_per_attacked_and_per_surviving_sample(make: Make, entries: Entries) -> None:
    """Ten forwards and four backwards a stage: survivors go through two stages, the others stop at their first."""
    make(stages=["pgd/true", "pgd/robust"], wrong=[0], broken={"pgd/true": range(1, 11), "pgd/robust": []})
    (entry,) = entries()
    passes = entry.runs[0].passes
    assert (passes.attacked, passes.forwards, passes.backwards) == (19, 19 * 10 + 9 * 10, 19 * 4 + 9 * 4)
    assert (passes.survived, passes.survivor_forwards, passes.survivor_backwards) == (9, 180, 72)
    assert entry.cost == pytest.approx((280 + 2 * 112) / 19)


@pytest.mark.parametrize(
    ("spec", "robust", "unknown", "reason"),
    [
        ({"missing": [(7, "pgd/true")]}, 19, 1, "1 samples lack records"),
        ({"missing": [(7, "clean")]}, 19, 1, "1 samples lack records"),
        ({"chunks": [0, 1]}, 16, 4, "1 of 3 chunks are missing"),
        ({"chunks": []}, 0, 20, "3 of 3 chunks are missing"),
        ({"errors": {7: "NaN logits"}}, 19, 1, "1 rows carry an error"),
        ({"change": {"status": "failed"}}, 20, 0, "its status is failed"),
        ({"distance": 0.04, "broken": [3]}, 19, 1, "1 adversarial examples lie outside the threat and do not count"),
    ],
)
def test_a_missing_record_is_not_a_pass(
    make: Make, entries: Entries, spec: dict[str, Any], robust: int, unknown: int, reason: str
) -> None:
    make(**spec)
    (entry,) = entries()
    assert (entry.robust, entry.open) == (robust, unknown)
    assert any(reason in line for line in entry.reasons)
    assert boards([entry])[0].entries[0].rank is None


def test_the_finds_of_a_partial_run_count(make: Make, entries: Entries) -> None:
    make(attack="pgd", broken=[1])
    make(attack="pma", broken=[2], chunks=[0])
    (entry,) = entries()
    assert (entry.robust, entry.open) == (6, 12)  # chunk 0 holds 8 samples, two of them broken
    assert entry.reasons


def test_a_broken_sample_with_an_error_is_no_find(make: Make, entries: Entries) -> None:
    make(broken=[3], errors={3: "outside the box"})
    (entry,) = entries()
    assert (entry.robust, entry.open) == (19, 1)


def test_rows_that_come_twice_and_foreign_stages_are_told(make: Make, entries: Entries) -> None:
    run = make(chunk=10)
    run.write_part(1, run.read_part(0), {})
    make(attack="pma", change={"stages": ["clean", "other/true"]})
    (entry,) = entries()
    told = "; ".join(entry.reasons)
    assert "10 rows are repeated" in told
    assert "20 rows name a stage that the run does not declare" in told


def test_runs_elsewhere_lower_the_number_where_they_lie_within_the_threat(make: Make, entries: Entries) -> None:
    make(attack="pgd", broken=[0])
    make(attack="pgd", eps="4/255", broken=[0, 1])
    make(attack="pgd", eps="16/255", broken=[2])  # distance 16/255: says nothing about 8/255
    make(attack="pma", eps="16/255", broken=[3], distance=0.03)  # within 8/255, whatever it was looking for
    make(attack="pma", selection="abc", ids=range(3, 9), broken=[4, 8])
    make(attack="pgd", heads="true", broken=[5])
    make(attack="pgd", defense="trades", broken=[6])  # another model
    make(attack="pgd", norm="l2", eps="0.5", broken=[7])  # another norm
    found = {(e.defense, e.threat.norm, e.eps, e.data.selection): e for e in entries()}
    entry = found["none", "linf", "8/255", "all"]
    assert entry.robust_ids.tolist() == [i for i in range(20) if i not in {0, 1, 3, 4, 5, 8}]
    told = {line.reason: line.lowered for line in entry.elsewhere}
    assert told == {
        "smaller eps 4/255": 1,
        "larger eps 16/255": 1,
        "another selection of samples (abc)": 2,
        "attacked through the true head alone": 1,
    }
    assert entry.reasons == ()
    small = found["none", "linf", "4/255", "all"]
    assert small.robust == 18  # nothing that lies beyond 4/255 counts


def test_runs_through_the_true_head_alone_are_shown_and_never_ranked(make: Make, entries: Entries) -> None:
    make(attack="pgd", heads="true", broken=[1])
    (entry,) = entries()
    assert [(a.column, a.declared, a.survivors) for a in entry.attacks] == [("pgd (true head)", False, 19)]
    assert (entry.robust, entry.open) == (0, 19)
    assert "heads=declared" in entry.reasons[0]


@pytest.mark.parametrize("access", ["score", "decision", "transfer"])
def test_runs_without_gradients_are_shown_and_never_ranked(access: str, make: Make, entries: Entries) -> None:
    make(attack="square", broken=[1], change={"access": access})
    (entry,) = entries()
    assert [(a.column, a.declared, a.survivors) for a in entry.attacks] == [(f"square (access: {access})", False, 19)]
    assert (entry.robust, entry.open) == (0, 19)
    assert "access=gradient" in entry.reasons[0]
    make(attack="pgd", broken=[2])
    (entry,) = entries()
    assert entry.reasons == ()
    assert entry.robust == 18  # what the black box broke is broken
    assert entry.elsewhere[0].reason == f"attacked without gradients of the model (access={access})"
    assert entry.cost == 18  # 10 forwards and 4 backwards: of the counted run alone


def test_equal_eps_are_one_threat_however_they_are_written(make: Make, entries: Entries) -> None:
    make(attack="pgd", eps="8/255", broken=[1])
    make(attack="pma", eps="16/510", broken=[2])
    make(attack="pgd", eps="0.031", seed=2, broken=[3])
    assert [(e.eps, len(e.runs)) for e in entries()] == [("0.031", 1), ("8/255", 2)]


def test_a_board_ranks_only_what_is_whole(make: Make, entries: Entries) -> None:
    make(defense="strong", ids=range(40), broken=range(0, 4))
    make(defense="middle", ids=range(40), broken=range(0, 6))
    make(defense="none", ids=range(40), broken=range(0, 39))
    make(defense="partial", ids=range(40), chunks=[0, 1, 2, 3])
    (board,) = boards(entries())
    assert [(e.defense, e.rank) for e in board.entries] == [
        ("strong", (1, 2)),
        ("middle", (1, 2)),
        ("none", (3, 3)),
        ("partial", None),
    ]


def test_runs_that_disagree_about_their_samples_are_not_ranked(make: Make, entries: Entries) -> None:
    make(attack="pgd", ids=range(20))
    make(attack="pma", ids=range(1, 21))
    (entry,) = entries()
    assert any("other samples" in reason for reason in entry.reasons)


Run = st.fixed_dictionaries(
    {
        "attack": st.sampled_from(["fgsm", "pgd", "pma"]),
        "heads": st.sampled_from(["declared", "declared", "true"]),
        "eps": st.sampled_from(["8/255", "8/255", "4/255", "16/255"]),
        "selection": st.sampled_from(["all", "all", "half"]),
        "wrong": st.sets(st.integers(0, 11), max_size=2),
        "broken": st.sets(st.integers(0, 11), max_size=5),
        "chunks": st.sampled_from([None, None, [0], [0, 1]]),
        "distance": st.sampled_from([None, 0.01]),
    }
)


@pytest.fixture(scope="module")
def both(write_run: Make) -> Callable[[list[dict[str, Any]]], list[dict[tuple[str, str], Entry]]]:
    """Entries by eps and selection: without the last run, and with it."""

    def scored(specs: list[dict[str, Any]]) -> list[dict[tuple[str, str], Entry]]:
        with TemporaryDirectory() as folder:
            root = Path(folder)
            for seed, spec in enumerate(specs):
                ids = range(0, 12, 2) if spec["selection"] == "half" else range(12)
                write_run(root, **spec, ids=ids, chunk=4, seed=seed)
            runs = {run.manifest["seed"]: run for run in discover(root).runs}
            seen = {place: collect(run, root) for place, run in runs.items()}
        wanted = [[run for seed, run in runs.items() if seed < last] for last in (len(specs) - 1, len(specs))]
        return [
            {
                (entry.eps, entry.data.selection): entry
                for pool in pools(some)
                for entry in score([seen[run.manifest["seed"]] for run in pool])
            }
            for some in wanted
        ]

    return scored


@settings(max_examples=30, deadline=None)
@given(specs=st.lists(Run, min_size=2, max_size=6))
def test_more_runs_never_raise_robust_accuracy(both: Any, specs: list[dict[str, Any]]) -> None:
    before, after = both(specs)
    for key, entry in before.items():
        if any(line.run.declared for line in entry.runs):
            assert set(after[key].robust_ids) <= set(entry.robust_ids)
            assert after[key].robust + after[key].open <= entry.robust + entry.open

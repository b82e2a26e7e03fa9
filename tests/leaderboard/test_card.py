"""The card of an entry says what the runs say, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.__main__ import main
from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.entry_card import CardLine, card

Make = Callable[..., RunFolder]
Scored = Callable[[], list[Entry]]

FITTED = {"split": "validation", "images": 360, "beta": 0.985}

HEADS = ("pgd/true", "pgd/mean", "pgd/member")


def told(entry: Entry, *others: Entry) -> dict[str, tuple[str, ...]]:
    lines: tuple[CardLine, ...] = card(entry, (entry, *others))
    return {line.key: line.values for line in lines}


def described(**parts: Any) -> dict[str, Any]:
    """What a run records of its defense."""
    recipe = {"objective": {"_target_": "gauntlet.training.objectives.objective.PGDAT"}, "selection": {"by": "pgd"}}
    nodes = {name: {"weights": weights, "recipe": recipe} for name, weights in parts.items()}
    return {
        "card": {
            "summary": "A defense.", "source": "a paper", "claim": "everything", "forwards": 2.0,
            "certificate": "none", "parameters": 1234,
        },
        "config": {"defense": {"_target_": "x.Y", "parts": nodes, "alpha": 0.9, "calibration": FITTED}},
        "weights": {name: f"sha256:{name}" for name in parts},
    }  # fmt: skip


def test_what_is_not_as_published_is_said(make: Make, entries: Scored) -> None:
    make(stages=HEADS, change={"card": {"summary": "A defense.", "differs": "fewer steps"}})
    (entry,) = entries()
    assert told(entry)["differs"] == ("fewer steps",)


def test_masking_is_the_difference_between_the_true_head_and_all(make: Make, entries: Scored) -> None:
    broken = {"pgd/true": [1, 2], "pgd/mean": [3, 4, 5], "pgd/member": [6]}
    make(stages=HEADS, wrong=[0], broken=broken, change=described(model=None))
    (entry,) = entries()
    assert entry.masking is not None
    assert (entry.masking.true, entry.masking.all, entry.masking.bound) == (17 / 20, 13 / 20, False)
    assert (entry.masking.best, entry.masking.added) == ("mean", 3)
    found = told(entry)
    assert found["non_adaptive"] == ("85.0 % left by attacks on the deployed forward alone",)
    assert found["masking_index"] == ("20.0 points; mean added most, 3 samples",)
    assert found["adaptive"][0].startswith("65.0 %, 95 % interval")
    assert found["heads"] == ("true", "mean", "member")
    assert found["clean"] == ("95.0 %",)
    assert found["cost"][0] == "a prediction: 2 forward passes of one network, 1,234 parameters"
    assert found["claims"] == ("everything",)
    assert found["certificate"] == ("none",)
    assert found["randomness"] == ("none: predictions are deterministic",)


def test_in_a_suite_the_index_is_a_bound_and_a_run_through_the_true_head_counts(make: Make, entries: Scored) -> None:
    stages = ("a/true", "a/mean", "b/true")
    make(attack="suite", stages=stages, broken={"a/true": [1], "a/mean": [2, 3], "b/true": [4]})
    (entry,) = entries()
    assert entry.masking is not None
    assert (entry.masking.true, entry.masking.bound) == (18 / 20, True)
    make(attack="suite", stages=("a/true", "b/true"), heads="true", broken={"a/true": [1], "b/true": [2, 4]})
    (entry,) = entries()
    assert entry.masking is not None
    assert entry.masking.true == 17 / 20
    assert told(entry)["non_adaptive"][1] == "suite (true head): 85.0 %"
    assert told(entry)["masking_index"][0].startswith("at most 5.0 points")


def test_one_head_has_no_index(make: Make, entries: Scored) -> None:
    make(broken=[1])
    (entry,) = entries()
    assert entry.masking is None
    assert told(entry)["non_adaptive"] == ("the same: the deployed forward is its only head",)
    assert "masking_index" not in told(entry)


def test_splits_come_from_the_configuration(make: Make, entries: Scored) -> None:
    make(change=described(a=None, b=None, c="included", d="weights.pt"))
    (entry,) = entries()
    assert told(entry)["splits"] == (
        "a, b: trained on train (PGDAT), epoch chosen by pgd accuracy on validation",
        "c: weights that the model brings along; what they saw is not on record",
        "d: weights from a file; what they saw is not on record",
        "parameters fitted on: validation, 360 images, beta 0.985",
        "evaluated on: test, 20 images (all)",
    )
    assert told(entry)["settings"] == ("alpha: 0.9",)


def test_lists_and_single_passes_are_told_in_words(make: Make, entries: Scored) -> None:
    change = described(a=None)
    change["config"]["defense"] |= {"members": ["first", "second"], "taps": [["stem", "layer1"], ["stem", "layer2"]]}
    change["card"] = {**change.get("card", {}), "forwards": 1.0}
    make(change=change)
    (entry,) = entries()
    assert {"members: first, second", "taps: stem, layer1; stem, layer2"} <= set(told(entry)["settings"])
    assert told(entry)["cost"][0].startswith("a prediction: 1 forward pass of one network")


def test_networks_are_found_by_their_weights(make: Make, entries: Scored) -> None:
    make(defense="mixing", change=described(robust=None, accurate=None))
    make(defense="trades", wrong=[0], broken=range(1, 5), change={"weights": {"model": "sha256:robust"}})
    mixing, trades = sorted(entries(), key=lambda entry: entry.defense)
    assert told(mixing, trades)["networks"] == ("robust: clean 95.0 %, under attack 75.0 % (trades)",)


def random(rule: str, draws: int = 100) -> dict[str, Any]:
    return {
        "card": {"randomized": True, "certificate": "smoothing"}, "coverage": "all", "bare": "sha256:bare",
        "protocol": {"rule": rule, "draws": draws}, "draws": {"true": {"draws": 20}},
    }  # fmt: skip


def test_the_number_of_a_randomised_defense_is_expected_and_never_a_count(make: Make, entries: Scored) -> None:
    given = {"clean": (0.1, 0.1), "pgd/true": (0.2, 0.3), "pgd/mean": (0.4, 0.5), "pgd/member": (0.3, 0.9)}
    make(stages=HEADS, change=random("expected"), victim="e", shares=lambda sample, stage: given[stage])
    (entry,) = entries()
    assert entry.robust == 20  # no majority is wrong anywhere
    assert entry.accuracy == pytest.approx(0.5)
    assert entry.clean_accuracy == pytest.approx(0.9)
    assert entry.measure == "Expected accuracy"
    assert entry.masking is not None
    assert (entry.masking.true, entry.masking.all) == pytest.approx((0.7, 0.5))
    assert (entry.masking.best, entry.masking.added, entry.masking.bound) == ("mean", 20, False)
    lost = lambda sample, stage: (given[stage][0], float(sample < 5))  # noqa: E731
    make(stages=HEADS, change=random("vote", 11), victim="v", seed=1, shares=lost)
    make(stages=HEADS, change=random("fixed", 1), victim="f", seed=2, broken={"pgd/true": range(12)})
    found = {entry.victim: entry for entry in entries()}
    assert told(found["e"], *found.values())["randomness"] == (
        "Expected accuracy: 50.0 % (100 fresh draws), this entry",
        "Vote accuracy: 75.0 % (11 fresh draws)",
        "Fixed-seed accuracy: 40.0 % (one frozen draw, known to the attacker)",
    )
    assert told(found["e"])["certificate"] == ("smoothing: not run on this model",)
    assert told(found["e"])["heads"] == ("true (20 draws per gradient)", "mean", "member")
    assert found["v"].interval[0] < 0.75 < found["v"].interval[1]


def test_strange_manifests_have_a_card_too(make: Make, entries: Scored) -> None:
    odd = {"card": {}, "config": {"defense": [1], "attack": {}}, "draws": {"true": {}}}
    make(change=odd | {"fidelity": {"mean": {"agrees": 1}}, "weights": {"a": ""}})
    (entry,) = entries()
    assert told(entry)["claims"] == ("none",)


def test_the_board_has_a_card_for_every_entry(make: Make, runs: Path, tmp_path: Path) -> None:
    seen = {"mean": {"agrees": 60, "right": 59, "of": 64}}
    make(stages=HEADS, broken={"pgd/mean": [3]}, change=described(model=None) | {"fidelity": seen})
    make(defense="other")
    assert main(["--runs", str(runs), "--out", str(tmp_path / "site")]) == 0
    records = json.loads((tmp_path / "site" / "board.json").read_text())["entries"]
    assert {record["defense"]: record["best_head"] for record in records} == {"none": "mean", "other": None}
    for record in records:
        assert {"claims", "clean", "adaptive", "heads", "splits", "randomness", "certificate"} <= set(record["card"])
        page = (tmp_path / "site" / record["page"]).read_text()
        assert all(value.replace("'", "&#39;") in page for values in record["card"].values() for value in values)
    (first,) = (record for record in records if record["defense"] == "none")
    assert first["card"]["surrogates"] == ["mean: the deployed class on 60, the label on 59 of the first 64 images"]
    assert first["masking_index"] == 5.0


def test_an_exact_expectation_is_told_in_a_sentence(make: Make, runs: Path, tmp_path: Path) -> None:
    make(change=random("expected", 0), shares=lambda sample, stage: (0.1, 0.1))
    assert main(["--runs", str(runs), "--out", str(tmp_path / "site")]) == 0
    (page,) = (tmp_path / "site" / "entries").glob("*.html")
    assert "Expected accuracy: the expectation is exact over the members; nothing is drawn." in page.read_text()

"""Red flags from runs laid side by side, and the verdict of the independent check."""

from collections.abc import Callable

import pytest

from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.entry import Entry

Make = Callable[..., RunFolder]
Entries = Callable[[], list[Entry]]


def names(entry: Entry) -> list[str]:
    return [flag.name for flag in entry.flags]


def test_a_weak_attack_that_finds_clearly_more_is_flagged(make: Make, entries: Entries) -> None:
    make(attack="fgsm", broken=range(0, 8))
    make(attack="pgd", broken=[0])
    (entry,) = entries()
    assert names(entry) == ["weaker-beats-stronger"]
    assert "35.0 points of the samples more than pgd" in entry.flags[0].detail


@pytest.mark.parametrize("fgsm", [range(0, 5), range(4, 9)])
def test_a_difference_within_noise_is_not(make: Make, entries: Entries, fgsm: range) -> None:
    make(attack="fgsm", broken=fgsm)
    make(attack="pma", broken=[] if fgsm.start == 0 else range(0, 4))
    (entry,) = entries()
    assert names(entry) == []  # five discordant samples give p = 0.0625


def test_variants_of_an_attack_belong_to_its_family(make: Make, entries: Entries) -> None:
    make(attack="fgsm", broken=range(0, 8))
    make(attack="pma_paper", broken=[])
    assert names(entries()[0]) == ["weaker-beats-stronger"]


def test_only_samples_that_both_decided_are_compared(make: Make, entries: Entries) -> None:
    make(attack="fgsm", broken=range(8, 16))
    make(attack="pgd", chunks=[0])  # samples 0 to 7
    assert names(entries()[0]) == []


def test_the_true_head_must_not_find_more_than_all_heads(make: Make, entries: Entries) -> None:
    make(attack="pgd", heads="true", broken=range(0, 8))
    make(attack="pgd", broken=[])
    assert names(entries()[0]) == ["true-head-wins"]


@pytest.mark.parametrize(("attack", "access"), [("rays", "decision"), ("mi", "transfer")])
def test_neither_a_black_box_nor_transfer_may_find_more_than_gradients(
    attack: str, access: str, make: Make, entries: Entries
) -> None:
    make(attack=attack, change={"access": access}, broken=range(0, 8))
    make(attack="pgd", broken=[])
    (flag,) = entries()[0].flags
    assert flag.name == "weaker-beats-stronger"
    assert flag.detail.startswith(f"{attack} (access: {access}) breaks 40.0 points")


def test_a_smaller_eps_must_not_find_more_than_a_larger(make: Make, entries: Entries) -> None:
    make(attack="pgd", eps="4/255", broken=range(0, 8))
    make(attack="pgd", eps="8/255", broken=[])
    small, large = sorted(entries(), key=lambda entry: entry.threat.radius)
    assert (names(small), names(large)) == ([], ["smaller-eps-wins"])
    assert large.robust == 12  # and the finds count at the larger eps


@pytest.mark.parametrize(("randomized", "flags"), [(False, ["undeclared-randomness"]), (True, [])])
def test_clean_predictions_that_move_must_be_declared(
    make: Make, entries: Entries, randomized: bool, flags: list[str]
) -> None:
    card = {"card": {"randomized": randomized}}
    make(attack="pgd", wrong=[1], change=card)
    make(attack="pma", wrong=[2], change=card)
    (entry,) = entries()
    assert names(entry) == flags
    assert entry.clean == 18


@pytest.mark.parametrize("attack", ["fgsm", "sga"])
def test_an_entry_that_met_weak_attacks_alone_says_so(make: Make, entries: Entries, attack: str) -> None:
    make(attack=attack)
    assert names(entries()[0]) == ["weak-attacks-only"]


def test_flags_of_the_runs_are_united(make: Make, entries: Entries) -> None:
    flag = {"name": "zero-gradients", "detail": "all of them"}
    make(attack="pgd", change={"flags": [flag]})
    make(attack="pma", change={"flags": [flag, {"name": "randomness", "detail": "two answers"}]})
    (entry,) = entries()
    assert names(entry) == ["randomness", "zero-gradients"]
    assert entry.flags[1].source.count("declared-all-0") == 2


def test_a_verdict_counts_only_for_the_records_it_saw(make: Make, entries: Entries, check: Callable[..., None]) -> None:
    whole, stale, failed = make(attack="pgd"), make(attack="pma", broken=[1]), make(attack="fgsm")
    check(whole)
    check(stale)
    check(failed, verified=False, failed=2)
    (part,) = stale.path.glob("records/part-00000.parquet")
    part.write_bytes(whole.part_path(0).read_bytes().replace(b"pgd", b"pma"))
    make(attack="other")
    edited, unstored, few = make(attack="square"), make(attack="fab"), make(attack="md")
    check(edited)
    edited.update({**edited.manifest(), "dirty": True})
    check(unstored, verified=False, checked=0)
    check(few, verified=False, claimed=9)
    (entry,) = entries()
    states = {line.run.attack: line.verification.state for line in entry.runs}
    assert states == {
        "pgd": "verified", "pma": "stale", "fgsm": "failed", "other": "none", "square": "stale", "fab": "none",
        "md": "partial",
    }  # fmt: skip
    assert entry.verified == 1
    assert "verification-failed" in names(entry)

"""Where every attacked sample ended with an error there is no number: the same words in the report and on the board."""

import json
from pathlib import Path

from gauntlet.commands.status import lines as status_lines
from gauntlet.leaderboard.build import build
from gauntlet.metrics.attack_summary import robust_words, summarize
from tests.leaderboard.conftest import make_run

CRASH = dict.fromkeys(range(20), "RuntimeError: no gradient")


def test_without_an_answer_there_is_no_number(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", errors=CRASH, wrong=[3], change={"status": "failed"})
    total = summarize(run, ["clean", "pgd/true"])
    assert (total.clean, total.robust, total.open, total.unknown) == (19, 0, 19, True)
    assert robust_words(total) == "unknown   each sample that was attacked ended with an error"
    (board,) = build(tmp_path / "runs", tmp_path / "site").boards
    assert board.entries[0].unknown
    page = (tmp_path / "site" / "index.html").read_text()
    assert '<span class="none">unknown</span>' in page
    assert "100.0" not in page.split("<tbody>")[1].split("</tbody>")[0]
    record = json.loads((tmp_path / "site" / "board.json").read_text())["entries"][0]
    assert (record["robust"], record["robust_low"], record["robust_high"]) == (None, None, None)
    assert status_lines(tmp_path / "runs")[0].state == "failed"


def test_some_answers_bound_the_number(tmp_path: Path) -> None:
    run = make_run(tmp_path, errors={0: "RuntimeError: once"}, broken=range(1, 6), change={"status": "failed"})
    total = summarize(run, ["clean", "pgd/true"])
    assert (total.robust, total.open, total.unknown) == (14, 1, False)
    assert robust_words(total) == " 75.00%   at most: 1 of 20 samples ended without an answer"


def test_a_model_that_is_always_wrong_has_a_number(tmp_path: Path) -> None:
    run = make_run(tmp_path, wrong=range(20))
    total = summarize(run, ["clean", "pgd/true"])
    assert (total.robust, total.unknown) == (0, False)
    assert robust_words(total).startswith("  0.00%   95 % interval 0.00% to 16")


def test_an_unbounded_table_shows_distances(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", attack="fmn", eps="unbounded", broken=range(20), distance=0.25)
    build(tmp_path / "runs", tmp_path / "site")
    page = (tmp_path / "site" / "index.html").read_text()
    cell = page.split('data-label="Attacks"')[1].split("</td>")[0]
    assert "fmn&nbsp;<b>0.25</b>" in cell


def test_a_source_of_candidates_is_no_head(tmp_path: Path) -> None:
    sets = {"pgd/plain": {"set": "0", "sources": {"plain": {"victim": "v", "weights": {}, "defense": "none"}}}}
    change = {"access": "transfer", "sets": sets}
    make_run(tmp_path / "runs")
    make_run(tmp_path / "runs", heads="declared", stages=["pgd/plain"], attack="pgd", seed=1, change=change)
    build(tmp_path / "runs", tmp_path / "site")
    (record,) = json.loads((tmp_path / "site" / "board.json").read_text())["entries"]
    assert record["card"]["heads"] == ["true"]
    assert record["card"]["sources"] == ["plain, by transfer"]


def test_a_run_through_the_true_head_answers_the_flag_of_another(tmp_path: Path) -> None:
    flag = {"flags": [{"name": "masked-gradients", "detail": "heads other than the true one broke 4 more samples"}]}
    broken = {"pgd/true": range(2), "pgd/mean": range(2, 6)}
    make_run(tmp_path / "one", stages=["pgd/true", "pgd/mean"], broken=broken, change=flag)
    make_run(tmp_path / "both", stages=["pgd/true", "pgd/mean"], broken=broken, change=flag)
    make_run(tmp_path / "both", attack="pma", broken=range(6))
    for folder, index, flags in (("one", 20.0, ["masked-gradients"]), ("both", 0.0, [])):
        build(tmp_path / folder, tmp_path / f"site-{folder}")
        (record,) = json.loads((tmp_path / f"site-{folder}" / "board.json").read_text())["entries"]
        assert (record["masking_index"], record["flags"]) == (index, flags)

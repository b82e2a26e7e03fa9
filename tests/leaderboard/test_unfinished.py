"""A run that has begun moves no number: the last result stays, and every page says the same of it."""

import csv
import io
import json
import re

import pytest

from gauntlet.leaderboard.__main__ import main
from gauntlet.leaderboard.score import boards
from gauntlet.system.lock import sole_owner
from tests.leaderboard.test_certificates import certify

RUNNING = {"status": "running"}


@pytest.fixture
def built(runs, tmp_path, capsys):
    """Builds the site: its front page, the page of its one entry, its record and its CSV row."""

    def build():
        assert main(["--runs", str(runs), "--out", str(tmp_path / "site")]) == 0
        capsys.readouterr()
        (page,) = (tmp_path / "site" / "entries").glob("*.html")
        (record,) = json.loads((tmp_path / "site" / "board.json").read_text())["entries"]
        (row,) = csv.DictReader(io.StringIO((tmp_path / "site" / "board.csv").read_text()))
        return (tmp_path / "site" / "index.html").read_text(), page.read_text(), record, row

    return build


def numbers(record):
    return {name: value for name, value in record.items() if name not in ("unfinished", "card")}


@pytest.mark.parametrize("chunks", [[], [0], [0, 1, 2]])
def test_a_run_that_has_begun_leaves_number_and_rank_alone(make, built, chunks):
    make(attack="gauntlet", broken=[1], wrong=[7])
    index, page, before, _ = built()
    make(attack="pgd", broken=[2, 3], wrong=[7], chunks=chunks, change=RUNNING)
    index, page, after, row = built()
    assert numbers(after) == numbers(before)
    assert (after["robust"], after["rank_first"], after["unfinished"]) == (0.9, 1, ["interrupted"])
    assert (row["robust"], row["unfinished"]) == ("0.9", "interrupted")
    assert after["card"]["adaptive"] == before["card"]["adaptive"]
    for text in (index, page):
        assert "interrupted" in text
        assert "90.0" in text
    assert "pgd, declared heads: interrupted; it is interrupted" in page


def test_what_a_live_process_holds_is_running(make, built):
    make(attack="gauntlet", broken=[1])
    run = make(attack="pgd", broken=[2], chunks=[0], change=RUNNING)
    with sole_owner(run.path, "run-0-of-1", None):
        index, page, record, _ = built()
        assert record["unfinished"] == ["running"]
        assert "running" in index
        assert "running" in page
    assert built()[2]["unfinished"] == ["interrupted"]


@pytest.mark.parametrize("chunks", [[], [0], [0, 1, 2]])
def test_before_its_first_result_an_entry_has_no_number_on_any_page(make, built, chunks):
    make(attack="gauntlet", broken=[1], chunks=chunks, change=RUNNING)
    index, page, record, row = built()
    for name in ("robust", "robust_low", "robust_high", "robust_at_most", "clean", "rank_first", "left_by_all_heads"):
        assert record[name] is None, name
        assert row[name] == "", name
    assert record["attacks"] == {}
    assert record["unranked_because"] == ["no run of it has ended"]
    assert record["card"]["adaptive"] == ["interrupted"]
    assert record["card"]["clean"] == ["unknown"]
    rows = index[index.index('<table class="ranking"') : index.index("</table>")]
    shown = page[page.index('<dl class="headline">') : page.index('<section id="card">')]
    for text in (rows, shown):
        assert not re.search(r"\b0\.0\b", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
        assert "no run has ended" in text


def test_a_run_that_has_ended_counts_from_then_on(make, entries):
    make(attack="gauntlet", broken=[1])
    run = make(attack="pgd", broken=[2], change=RUNNING)
    (entry,) = entries()
    assert (entry.robust, entry.states) == (19, ("interrupted",))
    run.update(run.manifest() | {"status": "done"})
    (entry,) = entries()
    assert (entry.robust, entry.states) == (18, ())


def test_what_an_unfinished_run_broke_elsewhere_does_not_count_yet(make, entries):
    make(attack="gauntlet", broken=[1])
    make(attack="pgd", eps="4/255", broken=[2], change=RUNNING)
    finished, begun = sorted(entries(), key=lambda entry: -entry.threat.radius)
    assert (finished.robust, finished.elsewhere) == (19, ())
    assert begun.unknown
    assert boards([finished])[0].entries[0].rank == (1, 1)


def test_a_bound_is_a_bound_on_every_page(make, built):
    make(attack="gauntlet", broken=[1], chunks=[0])  # a part is lost
    index, page, record, row = built()
    found = [record["robust"], record["robust_at_most"], row["robust"], row["robust_at_most"]]
    assert found == [None, 0.95, "", "0.95"]
    assert record["card"]["adaptive"] == ["at most 95.0 %: 12 of 20 samples have no answer, by gauntlet"]
    assert record["attacks"]["gauntlet"]["robust"] is None
    for text in (index, page):
        assert '<span class="bound">≤ </span>95.0' in text


def test_an_unfinished_certificate_is_left_out_by_name(runs, tmp_path, capsys):
    certify(runs, [0.5] * 20, status="running")
    assert main(["--runs", str(runs), "--out", str(tmp_path / "site")]) == 0
    assert "it is interrupted" in (tmp_path / "site" / "certificates.html").read_text()
    capsys.readouterr()

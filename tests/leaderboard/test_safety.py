"""The site is safe to open and to build: no formula in its table, no foreign script, and it changes as a whole."""

import csv
from pathlib import Path

import pytest

from gauntlet.errors import UserError
from gauntlet.leaderboard.build import build
from gauntlet.leaderboard.site_writer import Site
from tests.leaderboard.conftest import make_run


def test_no_cell_of_the_table_is_a_formula(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", defense="=HYPERLINK(1)", model="@sum", attack="+cmd", broken=range(3))
    build(tmp_path / "runs", tmp_path / "site")
    (row,) = csv.DictReader((tmp_path / "site" / "board.csv").read_text().splitlines())
    assert (row["defense"], row["model"]) == ("'=HYPERLINK(1)", "'@sum")
    assert float(row["robust"]) == 0.85
    assert not [cell for cell in (*row, *row.values()) if cell.startswith(("=", "@", "+"))]


def test_every_page_has_a_policy_that_allows_no_foreign_script(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    build(tmp_path / "runs", tmp_path / "site")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) == 3
    for page in pages:
        text = page.read_text()
        assert "default-src 'none'; script-src 'self'" in text
        assert "<script>" not in text


def test_control_signs_of_foreign_texts_reach_no_page(tmp_path: Path) -> None:
    hostile = "a\x1b[2J\u202eb\ud800<script>c"
    change = {"command": hostile, "failures": [hostile], "status": "failed", "device": hostile}
    make_run(tmp_path / "runs", defense=hostile.replace("\ud800", ""), change=change)
    build(tmp_path / "runs", tmp_path / "site")
    for path in (tmp_path / "site").rglob("*.html"):
        text = path.read_text()
        assert not {"\x1b", "\u202e"} & set(text)
        assert "<script>c" not in text
        assert "a?[2J?b" in text or path.name == "glossary.html"


def test_a_build_that_fails_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "site"
    with Site(out) as site:
        site.write("index.html", "first")
    (out / "CNAME").write_text("mine")

    def fail() -> None:
        with Site(out) as site:
            site.write("index.html", "second")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (out / "index.html").read_text() == "first"
    with Site(out) as site:
        site.write("other.html", "third")
    assert sorted(path.name for path in out.iterdir()) == ["CNAME", "files.txt", "other.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]


def test_what_a_killed_build_left_is_taken_up(tmp_path: Path) -> None:
    out = tmp_path / "site"
    with Site(out) as site:
        site.write("index.html", "first")
    out.rename(tmp_path / ".site.old")  # killed between the two renames
    (tmp_path / ".site.new").mkdir()
    with pytest.raises(RuntimeError), Site(out):
        raise RuntimeError
    assert (out / "index.html").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]


def test_the_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a board"):
        Site(tmp_path)

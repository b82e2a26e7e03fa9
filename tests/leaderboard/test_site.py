"""The site as files: complete, closed in itself, the same for the same records, careful with what is not its own."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import numpy as np
import pytest
from PIL import Image

from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.__main__ import main
from gauntlet.leaderboard.glossary import GLOSSARY

Make = Callable[..., RunFolder]
HOSTILE = "</script><script>alert(1)</script>\"'>&<img src=x onerror=alert(2)>\u202e\U0001f600"
VOID = {"meta", "link", "br", "img", "input", "wbr", "line", "hr"}


class Page(HTMLParser):
    """Checks nesting, collects ids, links and loaded addresses."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == [], f"{path.name}: {self.open} stay open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src"}:
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def pictures(sample: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.full((1, 4, 4), 0.5, np.float32)
    return x, x + np.float32(0.03)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def filled(make: Make, check: Callable[..., None]) -> None:
    """Two boards, a flag, a partial entry, a run through the true head, examples, a verified run."""
    check(make(defense="trades", attack="pgd", wrong=[0], broken=[1, 2], images=pictures))
    make(defense="trades", attack="pgd", heads="true", broken=[3], images=pictures)
    make(defense="none", attack="fgsm", broken=range(0, 15), images=pictures)
    make(defense="none", attack="pgd", broken=[0], images=pictures)
    make(defense="mixing", attack="pgd", chunks=[0])
    make(defense="none", attack="pgd", norm="l2", eps="0.5", broken=[5])


def build(runs: Path, out: Path) -> int:
    return main(["--runs", str(runs), "--out", str(out)])


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.usefixtures("filled")
def test_the_pages_are_well_formed_and_closed_in_themselves(runs: Path, out: Path) -> None:
    assert build(runs, out) == 0
    pages = {path: Page(path) for path in out.rglob("*.html")}
    assert len(pages) == 7
    for path, page in pages.items():
        assert len(page.ids) == len(set(page.ids))
        for link in page.links:
            if link == "data:,":
                continue
            target, fragment = urldefrag(link)
            assert "//" not in target
            assert not target.startswith("/")
            place = (path.parent / unquote(target)).resolve() if target else path
            assert place.is_file(), f"{path.name} points to {link}"
            assert not fragment or fragment in pages[place].ids


@pytest.mark.usefixtures("filled")
def test_the_same_records_give_the_same_bytes_wherever_they_lie(runs: Path, out: Path, tmp_path: Path) -> None:
    build(runs, out)
    first = files(out)
    elsewhere = tmp_path / "another" / "place"
    shutil.copytree(runs, elsewhere)
    build(elsewhere, tmp_path / "second")
    build(runs, out)
    assert files(tmp_path / "second") == first == files(out)
    assert not any(str(tmp_path).encode() in data for data in first.values())
    assert first["files.txt"].decode().splitlines() == sorted(first)


@pytest.mark.usefixtures("filled")
def test_json_and_csv_say_what_the_table_says(runs: Path, out: Path) -> None:
    build(runs, out)
    records = json.loads((out / "board.json").read_text())["entries"]
    trades = next(record for record in records if record["defense"] == "trades")
    assert (trades["clean"], trades["robust"], trades["open"], trades["verified_runs"]) == (0.95, 0.8, 0.0, 1)
    assert trades["attacks"]["pgd (true head)"] == {"robust": 0.95, "open": 0.0, "declared_heads": False, "runs": 1}
    assert (trades["rank_first"], trades["rank_last"]) == (1, 1)
    none = next(record for record in records if record["defense"] == "none" and record["norm"] == "linf")
    assert none["flags"] == ["weaker-beats-stronger"]
    rows = list(csv.DictReader(io.StringIO((out / "board.csv").read_text())))
    assert [row["defense"] for row in rows] == [record["defense"] for record in records]
    for name in ("robust", "robust_at_most"):
        told = [float(row[name]) if row[name] else None for row in rows]
        assert told == [record[name] for record in records]
    assert [row["attack: fgsm"] for row in rows].count("") == 3


@pytest.mark.usefixtures("filled")
def test_the_page_of_an_entry_shows_its_evidence(runs: Path, out: Path) -> None:
    build(runs, out)
    (page,) = out.glob("entries/digits-linf-8-255-trades-*.html")
    text = page.read_text()
    for said in (
        "python run.py attack=pgd defense=trades seed=0",
        "_target_: gauntlet.models.small_cnn.SmallCNN",
        "digits/linf-8_255/trades/pgd/declared-all-0",
        "0123456789abcdef",
        "sha256:" + "1" * 64,
        "2.15.0",
        "sample 1 unchanged, class 1",
        "1 sample: attacked through the true head alone",
    ):
        assert said in text
    image = np.asarray(Image.open(next(out.glob("entries/digits-linf-8-255-trades-*/1-difference.png"))))
    assert image.shape == (4, 4)
    assert (image == round((0.5 + 0.03 / (2 * 8 / 255)) * 255)).all()
    assert f"by {8 / 255:.4g} and more, which is ε" in text


@pytest.mark.usefixtures("filled")
def test_a_file_of_examples_is_decoded_once(runs: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[Path, int]] = []
    plain = RunFolder.read_staged_examples
    monkeypatch.setattr(
        RunFolder, "read_staged_examples", lambda run, chunk: (read.append((run.path, chunk)), plain(run, chunk))[1]
    )
    build(runs, out)
    assert len(list(out.glob("entries/*/*-difference.png"))) > len(read)
    assert len(read) == len(set(read)) > 0


@pytest.mark.usefixtures("filled")
def test_every_column_is_in_the_glossary(runs: Path, out: Path) -> None:
    build(runs, out)
    text = (out / "glossary.html").read_text()
    assert all(f"<dt>{term.title}</dt>" in text for term in GLOSSARY)
    assert "no interval covers that" in text


def test_hostile_names_stay_text(make: Make, runs: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change = {
        "name": {"dataset": HOSTILE, "threat": HOSTILE, "defense": HOSTILE, "attack": HOSTILE, "model": HOSTILE},
        "command": HOSTILE,
        "config": {HOSTILE: [HOSTILE, {"x": HOSTILE}]},
        "weights": {HOSTILE: HOSTILE},
        "versions": {HOSTILE: HOSTILE},
        "card": {HOSTILE: HOSTILE},
        "flags": [{"name": HOSTILE, "detail": HOSTILE}],
        "failures": [HOSTILE],
        "commit": HOSTILE,
    }
    stage = f"{HOSTILE}/{HOSTILE}"
    for number in (1, 2):
        victim = f"{HOSTILE}{number}"
        make(stages=[stage], broken=[number], victim=victim, change=change, images=pictures, seed=number)
        make(attack="pma", victim=victim, broken=[5], change={"dataset": _data("digits", HOSTILE)}, seed=number)
        make(attack="pgd", defense="x", dataset=HOSTILE, broken=[number], seed=number)
    assert build(runs, out) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    plain = HOSTILE.replace("\u202e", "").replace("\U0001f600", "")
    for path in out.rglob("*.html"):
        page = Page(path)
        assert page.handlers == []
        assert page.tags.count("script") <= 6
        assert not any(set(link) & set("<>\"'() ") for link in page.links)
        assert plain not in path.read_text()
    assert all(set(path.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.") for path in out.glob("entries/*"))


def _data(name: str, selection: str) -> dict[str, object]:
    return {"name": name, "digest": "sha256:data", "selection": selection, "samples": 20}


def test_damage_is_told_on_the_page_and_on_stderr(
    make: Make, runs: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = make(attack="pgd", broken=[1], images=pictures)
    cut.part_path(1).write_bytes(cut.part_path(1).read_bytes()[:90])
    cut.adversarial_path(0).write_bytes(b"short")
    (make(attack="pma").path / "run.json").write_text("{")
    (make(attack="fgsm").path / "records" / "part-copy.parquet").write_text("")  # not a part: no damage
    make(attack="other", change={"threat": {"norm": "linf"}})
    make(attack="square", change={"versions": ["torch"]})
    (make(attack="apgd").path / "verification.json").write_text("[]")
    assert build(runs, out) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 5 + 1
    assert all(line.startswith("warning: ") for line in warnings)
    page = " ".join(Page(out / "index.html").texts)
    for line in warnings:
        if "part-00000.safetensors" not in line:
            assert line.removeprefix("warning: ").replace(f"{runs}/", "") in page
    assert "2 of its files cannot be read" not in page
    (entry,) = json.loads((out / "board.json").read_text())["entries"]
    assert entry["rank_first"] is None
    assert (entry["robust"], entry["robust_low"], entry["robust_high"]) == (None, None, None)
    assert (entry["robust_at_most"], entry["open"]) == (19 / 20, 8 / 20)  # of the lost part nothing is known


def test_certificates_are_left_out_aloud(make: Make, runs: Path, out: Path) -> None:
    make(change={"kind": "certificate"})
    assert build(runs, out) == 0
    assert "1 folder holds runs that are not attacks" in (out / "index.html").read_text()


def test_no_runs_give_a_page_that_says_how_to_begin(runs: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(runs, out) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert "python run.py attack=gauntlet defense=adaptive_smoothing" in (out / "index.html").read_text()
    Page(out / "index.html")


def test_success_prints_a_line_per_board(make: Make, runs: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(broken=[1])
    make(eps="0.1", chunks=[0])
    build(runs, out)
    assert capsys.readouterr().out.splitlines() == [
        "digits linf 8/255, n = 20: 1 entry, best none 95.0 % [76.4, 99.1]",
        "digits linf 0.1, n = 20: 1 entry, none ranked yet",
        f"board: {out / 'index.html'}",
    ]


@pytest.mark.usefixtures("filled")
def test_pages_of_runs_that_are_gone_go_too(runs: Path, out: Path) -> None:
    build(runs, out)
    before = set(files(out))
    shutil.rmtree(runs / "digits" / "linf-8_255" / "trades")
    (out / "notes.txt").write_text("mine")
    build(runs, out)
    gone = before - set(files(out))
    assert gone
    assert all("trades" in name or name.startswith("compare/") for name in gone)
    assert not list(out.glob("entries/*trades*"))
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("case", ["no runs", "foreign folder", "file in the way", "unwritable"])
def test_mistakes_are_answered_with_one_line(
    runs: Path, out: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "no runs":
        runs.rmdir()
    if case == "foreign folder":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    if case == "file in the way":
        out.write_text("")
    if case == "unwritable":

        def full(self: Path, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
    assert build(runs, out) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert not (out / "index.html").exists()


def test_a_listing_cannot_make_it_delete_other_files(runs: Path, out: Path, tmp_path: Path) -> None:
    out.mkdir()
    precious = tmp_path / "precious"
    precious.write_text("")
    (out / "files.txt").write_text(f"../precious\n{precious}\n")
    assert build(runs, out) == 0
    assert precious.exists()


@pytest.mark.usefixtures("filled")
def test_the_board_is_built_without_torch(runs: Path, out: Path) -> None:
    code = (
        "import sys; from gauntlet.leaderboard.__main__ import main; "
        f"assert main(['--runs', {str(runs)!r}, '--out', {str(out)!r}]) == 0; "
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

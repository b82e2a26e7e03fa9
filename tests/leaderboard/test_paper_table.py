"""Tables for papers: equal to the board, and every special sign stands for itself."""

import csv
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gauntlet.commands.table import MARKDOWN, TYPST, escaped, main
from gauntlet.evidence.run_folder import RunFolder, find_runs

Make = Callable[..., RunFolder]
HOSTILE = r"a_b & 50% $x$ #1 {y} ~^\ <s> |"


@pytest.fixture
def runs(make: Make, tmp_path: Path) -> Path:
    make(defense="strong", ids=range(40), broken=range(4), label=lambda sample: 1 if sample < 20 else 3)
    make(defense=HOSTILE, ids=range(40), broken=range(30))
    make(defense="unfinished", ids=range(40), broken=range(4), chunks=[0])
    make(defense="weak", ids=range(40), change={"config": {"attack": {"_target_": "attacks.fgsm.FGSM"}}})
    return tmp_path


def test_the_numbers_are_those_of_the_board(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs), "--format", "csv"]) == 0
    rows = {row["Defense"]: row for row in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert (rows["strong"]["Robust"], rows["strong"]["95 % interval"], rows["strong"]["Rank"]) == (
        "90.0", "[76.9, 96.0]", "1",
    )  # fmt: skip
    assert rows["strong"]["Bold"] == "1"
    assert (rows["strong"]["Worst class"], rows["unfinished"]["Worst class"]) == ("80.0 (1)", "–")
    assert rows[HOSTILE]["Bold"] == "0"
    assert (rows["unfinished"]["Robust"], rows["unfinished"]["Rank"]) == ("≤ 90.0", "–")
    assert rows["unfinished"]["95 % interval"] == ""  # a bound has none
    assert (rows["weak"]["Robust"], rows["weak"]["Rank"], rows["weak"]["Bold"]) == ("100.0", "–", "0")
    assert main([str(runs), "--format", "csv", "--floor", "any"]) == 0
    rows = {row["Defense"]: row for row in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert rows["weak"]["Rank"] == "1-2"


def test_special_signs_stand_for_themselves(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {
        "latex": r"a\_b \& 50\% \$x\$ \#1 \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{} "
        r"\textless{}s\textgreater{} \textbar{} & small\_cnn & ",
        "markdown": f"| {escaped(HOSTILE, MARKDOWN)} |",
        "typst": f"[{escaped(HOSTILE, TYPST)}]",
    }
    for form, text in expected.items():
        assert main([str(runs), "--format", form]) == 0
        out = capsys.readouterr().out
        assert text in out, out
    assert "**strong**" not in out
    assert "[*strong*]" in out


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(runs: Path) -> None:
    body = runs / "table.tex"
    assert main([str(runs), "--format", "latex", "--out", str(body)]) == 0
    text = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table}\end{document}"
    (runs / "main.tex").write_text(text)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "main.tex"], cwd=runs, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout.decode()[-2000:]


def test_the_runs_that_are_named_alone_are_tabled(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = [str(run.path) for run in find_runs(runs) if run.manifest()["name"]["defense"] in ("strong", "weak")]
    assert len(named) > 1
    assert main([*named, "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {row["Defense"] for row in rows} == {"strong", "weak"}


def test_no_runs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1

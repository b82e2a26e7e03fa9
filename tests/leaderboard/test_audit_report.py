"""The report for an auditor: requirements by the interval, worst class, and nothing that a name can run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gauntlet.commands.report import main
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.audit_report import Requirement

Make = Callable[..., RunFolder]


def test_requirements_are_read_from_the_interval(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """36 of 40: 90.0 %, 76.9 to 96.0."""
    make(ids=range(40), broken=range(4))
    out = tmp_path / "report.html"
    for share, state, status in (("76", "met", 0), ("80", "undecided", 1), ("97", "not met", 1)):
        assert main([str(tmp_path), "--out", str(out), "--require", f"linf 8/255 >= {share}%"]) == status
        printed = capsys.readouterr().out
        assert printed.startswith(f"{state}: linf 8/255 >= {share}%: none · small_cnn on digits: 90.0%")
    assert main([str(tmp_path), "--out", str(out), "--require", "l2 1 >= 5%"]) == 1
    assert "not measured" in capsys.readouterr().out
    text = out.read_text()
    assert "76.9 to 96.0 %" in text
    assert "not measured" in text


def test_a_flag_or_missing_chunk_leaves_a_requirement_undecided(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = {"name": "zero-gradients", "detail": "of 3 samples"}
    make(defense="flagged", ids=range(40), change={"flags": [flag]})
    make(defense="open", ids=range(40), chunks=[0])
    assert main([str(tmp_path), "--out", str(tmp_path / "r.html"), "--require", "linf 8/255 >= 10%"]) == 1
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("undecided")
    assert first.endswith("red flags say that it may be too high: zero-gradients")
    assert second.startswith("undecided")
    assert "does not decide it" in second


def test_names_run_nothing(make: Make, tmp_path: Path) -> None:
    make(defense="<script>alert(1)</script>", model="<img src=x onerror=alert(1)>")
    assert main([str(tmp_path), "--out", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.html").read_text()
    assert "<script" not in text
    assert "<img" not in text


@pytest.mark.parametrize(
    "text", ["", "linf", "linf 4/255 > 60%", "linf 0 >= 60%", "l3 1 >= 60%", "linf 1/0 >= 6%", "l2 1 >= 160%"]
)
def test_requirements_that_cannot_be_read_are_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--require", text]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_requirement_is_exact() -> None:
    assert Requirement.parse("linf 4/255 >= 60%").radius == 4 / 255

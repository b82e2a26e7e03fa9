"""`gauntlet board --verify`: what the board shows was checked by the one who builds it."""

import pytest

from gauntlet.commands.board import main
from gauntlet.evidence.verdict_seal import key_path
from gauntlet.verification import verify
from tests.verification.test_forgeries import attacked, claim, rewrite, survive


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return attacked(tmp_path_factory.mktemp("board") / "runs", "dataset.limit=20")


def page(run):
    site = run.path.parents[4].with_name("site")
    return "".join(path.read_text() for path in sorted(site.rglob("*.html")))


def build(run, *words):
    root = run.path.parents[4]
    return main(["--runs", str(root), "--out", str(root.with_name("site")), *words])


def test_the_board_checks_while_it_builds(run, capsys):
    assert build(run) == 0
    assert "unverified" in page(run)
    claim(run)
    assert build(run) == 0
    assert "its verdict is not by the one who built this board" in page(run)
    assert build(run, "--verify") == 0
    assert f"verified (examples), 0 problems: {run.path}" in capsys.readouterr().out
    assert "examples" in page(run)
    assert build(run, "--verify", "--replay", "5") == 0
    assert "replayed 5 of" in page(run)
    assert build(run, "--verify", "--full") == 0
    assert '<span class="yes">full</span>' in page(run)
    assert build(run) == 0  # the verdict lies beside the run, sealed
    assert '<span class="yes">full</span>' in page(run)
    key = key_path().read_bytes()
    assert key_path().stat().st_mode & 0o077 == 0
    key_path().write_bytes(bytes(32))  # as another user would see it
    assert build(run) == 0
    assert '<span class="yes">full</span>' not in page(run)
    key_path().write_bytes(key)


def test_what_does_not_hold_ends_with_status_1(run, capsys):
    rewrite(run, survive, keep_examples=False)
    assert build(run, "--verify") == 1
    assert "not verified (examples)" in capsys.readouterr().out
    assert "verification-failed" in page(run)


def test_mistakes_cost_one_line(run, capsys):
    assert build(run, "--verify", "--replay", "x") == 2
    assert "is no number of samples" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        build(run, "--full")
    assert "goes with --verify" in capsys.readouterr().err
    assert verify.main([str(run.path), "--replay"]) == 1

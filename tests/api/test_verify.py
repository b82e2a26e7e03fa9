"""Runs that Python code made are verified and ranked as any other."""

import shutil

import pytest

from gauntlet import Threat, UserError, evaluate
from gauntlet.commands.board import main as board
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.collect import collect, discover
from gauntlet.leaderboard.score import pools, score
from gauntlet.verification.handed_in import made
from gauntlet.verification.pack import main as pack_main
from gauntlet.verification.rebuild import Local
from gauntlet.verification.verify import main, verify

FAST = {"threat": Threat("linf", 0.25), "attack": "pgd", "steps": 5, "limit": 16}


@pytest.fixture
def result(net, digits, tmp_path):
    return evaluate(net, digits.x, digits.y, **FAST, folder=tmp_path / "runs", name="my net")


def test_the_board_takes_it(result, tmp_path):
    runs = discover(tmp_path / "runs")
    assert not runs.damaged
    (entry,) = score([collect(run, tmp_path / "runs") for pool in pools(runs.runs) for run in pool])
    assert (entry.model, entry.defense, entry.reasons) == ("my net", "none", ())
    assert entry.robust == result.summary.robust


def test_it_is_verified_with_what_makes_its_network(result, maker, tmp_path, capsys):
    with pytest.raises(UserError, match=r"gauntlet verify RUN --model FILE\.py:FUNCTION"):
        verify(result.run)
    with pytest.raises(UserError, match="a network with weights"):
        verify(result.run, Local(model=f"{maker}:other"))
    moved = shutil.move(tmp_path / "runs", tmp_path / "elsewhere")
    assert main([str(moved), "--model", f"{maker}:make"]) == 0
    assert "verified" in capsys.readouterr().out


def test_the_board_checks_it_with_what_makes_its_network(result, maker, tmp_path, capsys):
    words = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "site"), "--verify"]
    assert board([*words, "--model", f"{maker}:other"]) == 1
    assert "a network with weights" in capsys.readouterr().err
    assert board([*words, "--model", f"{maker}:other", "--model", f"{maker}:make"]) == 0
    assert "verified (examples), 0 problems" in capsys.readouterr().out


def test_it_goes_into_a_pack_with_its_images(result, maker, tmp_path, capsys):
    out = tmp_path / "run.gauntlet"
    assert pack_main([str(result.folder), "--out", str(out), "--model", f"{maker}:make", "--images"]) == 0
    shutil.rmtree(tmp_path / "runs")
    assert main([str(out), "--model", f"{maker}:make"]) == 0
    assert "verified" in capsys.readouterr().out


def test_a_forged_record_is_found(result, maker):
    manifest = result.run.manifest()
    result.run.update({**manifest, "weights": {"model": "sha256:0"}})
    assert any("weights" in line for line in verify(result.run, Local(model=f"{maker}:make")).problems)


def test_images_that_are_gone_or_changed_are_named(result, maker, tmp_path):
    (path,) = (tmp_path / "runs/_data").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="does not have the digest of the run"):
        verify(result.run, Local(model=f"{maker}:make"))
    path.unlink()
    with pytest.raises(UserError, match="came from Python code and is not here"):
        verify(result.run, Local(model=f"{maker}:make"))


def test_another_class_with_the_same_weights_is_remarked(net, digits, tmp_path, maker):
    class Mine(type(net)):
        """The same, under another name."""

    mine = Mine(10, 1, 8).eval()
    mine.load_state_dict(net.state_dict())
    result = evaluate(mine, digits.x, digits.y, **FAST, folder=tmp_path / "runs")
    report = verify(RunFolder(result.folder), Local(model=f"{maker}:make"))
    assert report.verified
    assert "source or constants are not those on record" in report.notes[0]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nothing.py:make", "there is no file nothing.py"),
        ("make", "must read"),
        ("{}:none", "makes no network"),
        ("{}:pixels", "list"),
    ],
)
def test_what_makes_no_network_is_refused(name, line, maker):
    with pytest.raises(UserError, match=line):
        made(name.format(maker))

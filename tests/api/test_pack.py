"""A run that Python code made is packed with its images, and verified elsewhere with what makes its network."""

import shutil

from gauntlet import Threat, evaluate
from gauntlet.verification.pack import main as pack
from gauntlet.verification.verify import main as verify


def test_its_images_go_along_where_asked_for(net, digits, maker, tmp_path, capsys):
    run = evaluate(
        net, digits.x, digits.y, threat=Threat("linf", 0.25), attack="pgd", steps=5, limit=16,
        folder=tmp_path / "runs", name="my net",
    ).run  # fmt: skip
    model = ("--model", f"{maker}:make")
    assert pack([str(run.path), "--out", str(tmp_path / "bare.zip"), *model]) == 0
    assert pack([str(run.path), "--out", str(tmp_path / "whole.zip"), "--images", *model]) == 0
    shutil.move(tmp_path / "runs", tmp_path / "gone")
    assert verify([str(tmp_path / "whole.zip"), "--replay", "4", *model]) == 0
    assert "verified (replayed 4 of" in capsys.readouterr().out
    assert verify([str(tmp_path / "bare.zip"), *model]) == 1
    assert "came from Python code and is not here" in capsys.readouterr().err

"""The table of accuracies without an attack on photographs of another origin."""

import json

from gauntlet.leaderboard.__main__ import main
from gauntlet.metrics.confidence import wilson


def test_clean_accuracy_with_its_interval_stands_in_a_table_of_its_own(make, tmp_path):
    config = {
        "attack": {"_target_": "attacks.fgsm.FGSM"},
        "dataset": {"_target_": "gauntlet.data.natural_images.ImageNetA"},
    }
    make(
        attack="fgsm",
        defense="one",
        dataset="imagenet_a",
        wrong=range(12),
        broken=range(12, 20),
        change={"config": config},
    )
    make(attack="pgd", defense="one", dataset="imagenet_a", wrong=range(12), change={"config": config})
    make(attack="fgsm", defense="two", dataset="imagenet_a", wrong=range(5), change={"config": config})
    make(attack="fgsm", defense="half", dataset="imagenet_a", wrong=range(5), chunks=[0], change={"config": config})
    make(attack="fgsm", defense="one", dataset="digits")
    assert main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "site")]) == 0
    rows = json.loads((tmp_path / "site" / "board.json").read_text())["distribution_shift"]
    assert [(row["defense"], row["clean"], row["n"]) for row in rows] == [("two", 0.75, 20), ("one", 0.4, 20)]
    assert (rows[1]["clean_low"], rows[1]["clean_high"]) == tuple(round(end, 6) for end in wilson(8, 20))
    page = (tmp_path / "site" / "index.html").read_text()
    assert '<section class="shift" id="distribution-shift"' in page


def test_without_such_runs_there_is_no_table(make, tmp_path):
    make()
    assert main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "site")]) == 0
    assert "distribution_shift" not in json.loads((tmp_path / "site" / "board.json").read_text())
    assert "distribution-shift" not in (tmp_path / "site" / "index.html").read_text()

"""A run that ends once its interval is narrow enough: recorded, stated, gone on with, verified and never ranked."""

import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gauntlet.commands.attack_report import lines
from gauntlet.commands.status import line as status_line
from gauntlet.config.shipped import CONF
from gauntlet.data.digits import Digits
from gauntlet.data.selection import hash_order, selection_name
from gauntlet.data.shuffled import ShuffledSplit
from gauntlet.errors import UserError
from gauntlet.jobs.attack_job import Outcome, evaluate
from gauntlet.jobs.attack_setup import prepare
from gauntlet.leaderboard.build import build
from gauntlet.metrics.anytime_interval import anytime
from gauntlet.metrics.attack_summary import summarize
from gauntlet.verification.verify import verify

CHOICES = {"attack": "fgsm", "defense": "trades", "model": "small_cnn"}
SMALL = ["attack=fgsm", "defense=trades", "runtime.chunk=16", "runtime.progress=false", "dataset.limit=200"]


def composed(folder: Path, *words: str):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return compose("run", [*SMALL, f"runs_dir={folder}", *words])


def run(folder: Path, *words: str) -> Outcome:
    return evaluate(composed(folder, *words), CHOICES, "python run.py attack=fgsm")


def test_it_ends_at_the_first_chunk_where_the_interval_is_narrow(tmp_path: Path) -> None:
    done = run(tmp_path, "stop_when.interval=0.15")
    facts, data = done.manifest["stop_when"], done.manifest["dataset"]
    images = facts["images"]
    assert done.manifest["status"] == "done"
    assert 16 < images < facts["of"] == 200
    assert (facts["low"], facts["high"]) == pytest.approx(anytime(done.summary.robust, images))
    before = summarize(done.run, done.manifest["stages"], range(images // 16 - 1))
    assert facts["high"] - facts["low"] <= 0.3 < np.diff(anytime(before.robust, before.samples))[0]
    assert (data["samples"], done.manifest["chunks"]) == (images, images // 16)
    test = Digits(limit=200).split("test")
    assert sorted(done.run.read_part(0)["sample"].unique().to_pylist()) == sorted(test.ids[hash_order(200)[:16]])
    assert data["selection"] == selection_name(test.ids[hash_order(200)[:images]], 10**9)
    said = "\n".join(lines(done))
    assert f"stopped          after {images} of 200 images in random order" in said
    assert f"{facts['low']:.2%} to {facts['high']:.2%}" in said
    assert (status_line(done.run).state, verify(done.run).problems) == ("done", [])

    again = run(tmp_path, "stop_when.interval=0.2")  # it is that narrow already
    assert again.manifest == done.manifest
    more = run(tmp_path, "stop_when.interval=0.1")
    assert images < more.manifest["stop_when"]["images"] < 200
    assert more.run == done.run
    assert verify(more.run).problems == []

    content = json.loads(more.run.manifest_path.read_text())
    for change in ({"low": 0.5}, {"interval": 0.05}, {"interval": 0.25}, {"images": 17}, {"of": 500}):
        forged = content | {"stop_when": content["stop_when"] | change}
        more.run.manifest_path.write_text(json.dumps(forged))
        assert any("stop_when" in problem for problem in verify(more.run).problems), change
    more.run.manifest_path.write_text(json.dumps(content))

    build(tmp_path, tmp_path / "site")
    (entry,) = json.loads((tmp_path / "site" / "board.json").read_text())["entries"]
    assert (entry["rank_first"], entry["unfinished"]) == (None, [])
    assert (entry["robust_low"], entry["robust_high"]) == pytest.approx(
        (content["stop_when"]["low"], content["stop_when"]["high"]), abs=1e-6
    )
    assert "Ended early: after" in (tmp_path / "site" / "index.html").read_text()

    whole = run(tmp_path, "stop_when.interval=0.001")
    assert (whole.manifest["stop_when"]["images"], whole.manifest["dataset"]["samples"]) == (200, 200)
    assert verify(whole.run).problems == []
    plain = run(tmp_path)
    assert plain.run != whole.run  # its chunks hold other images
    assert "stop_when" not in plain.manifest
    assert (plain.summary.robust, plain.summary.clean) == (whole.summary.robust, whole.summary.clean)
    assert plain.manifest["dataset"] == whole.manifest["dataset"]


def test_a_killed_run_goes_on_and_ends_where_it_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gauntlet.jobs import chunk_runner

    done = run(tmp_path / "a", "stop_when.interval=0.15")

    def killed() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(chunk_runner, "give_back", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "b", "stop_when.interval=0.15")
    resumed = run(tmp_path / "b", "stop_when.interval=0.15")
    assert resumed.manifest["stop_when"] == done.manifest["stop_when"]
    assert resumed.summary.robust == done.summary.robust


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("runtime.shards=2", "one process"),
        ("threat.eps=unbounded attack=fmn", "needs an eps"),
        ("stop_when.interval=1.5", "below 0.5"),
    ],
)
def test_where_looking_says_nothing_it_is_refused(tmp_path: Path, words: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        prepare(composed(tmp_path, "stop_when.interval=0.15", *words.split()), CHOICES, "")


def test_a_shuffled_split_holds_the_same_images() -> None:
    plain = Digits(limit=50).split("test")
    mixed = ShuffledSplit(plain)
    assert sorted(mixed.ids) == sorted(plain.ids)
    assert list(mixed.ids) != list(plain.ids)
    batch = mixed.read(slice(3, 9))
    assert batch.ids.tolist() == mixed.ids[3:9].tolist()
    place = plain.ids.tolist().index(int(batch.ids[0]))
    assert (batch.x[0] == plain.read([place]).x[0]).all()
    assert (mixed.digest(), mixed.selection(), len(mixed)) == (plain.digest(), plain.selection(), 50)

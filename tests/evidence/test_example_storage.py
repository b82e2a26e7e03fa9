"""What a run stores follows its policy, is estimated before it begins, and can be checked whatever the policy is."""

import json
import math
from collections import namedtuple

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from safetensors.numpy import load_file

from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError
from gauntlet.evidence import example_storage
from gauntlet.evidence.example_storage import DiskEstimate, StoragePolicy
from gauntlet.jobs.attack_job import evaluate
from gauntlet.tracking.example_images import examples
from gauntlet.verification import verify

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("text", "images"), [("all", math.inf), ("broken", math.inf), ("first 12", 12), ("none", 0), ("first 1", 1)]
)
def test_a_policy_says_how_many_images_it_is_about(text, images):
    assert StoragePolicy.of(text).images == images
    assert StoragePolicy.of(text).every == (text == "all")


@pytest.mark.parametrize("text", ["", "first", "first 0", "first -1", "first 1.5", "first 1 2", "most", "First 3"])
def test_other_policies_are_refused(text):
    with pytest.raises(UserError, match="choose all, broken, 'first N'"):
        StoragePolicy.of(text)


def test_policies_are_ordered_by_what_they_store():
    order = [StoragePolicy.of(text) for text in ("none", "first 3", "first 20", "broken", "all")]
    for n, one in enumerate(order):
        assert [one.covers(other) for other in order] == [m <= n for m in range(len(order))]


@pytest.mark.parametrize(
    ("text", "coverage", "examples"),
    [
        ("none", "standing", 0),
        ("broken", "standing", 85),  # once broken, a sample is attacked no more
        ("broken", "correct", 170),
        ("all", "standing", 170),
        ("first 35", "standing", 25),  # chunk 1 is there: of the first 35 there remain 0 to 9, and 20 to 34
    ],
)
def test_the_room_is_an_upper_bound_by_hand(text, coverage, examples):
    manifest = {"chunk": 10, "dataset": {"samples": 95}, "stages": ["clean", "a/true", "a/robust"]}
    room = DiskEstimate.of(StoragePolicy.of(text), manifest | {"coverage": coverage}, [0, *range(2, 10)], 48)
    assert room == DiskEstimate(85 * 3 * example_storage.ROW + 9 * example_storage.PART, examples * (2 * 4 * 48 + 10))


@pytest.mark.parametrize(
    ("free", "words"),
    [
        (3 * 10**9, None),
        (
            10**9,
            "this run may write up to 2.5 GB (2.4 GB of adversarial examples, runtime.keep=broken); use runtime.keep=",
        ),
        (10**7, "free some, or another runs_dir=DIR"),
    ],
)
def test_a_disk_without_room_is_refused_before_the_run(tmp_path, monkeypatch, free, words):
    monkeypatch.setattr(example_storage.shutil, "disk_usage", lambda _: Usage(10**12, 0, free))
    room, folder = DiskEstimate(10**8, 24 * 10**8), tmp_path / "not" / "yet"
    if words is None:
        assert room.check(folder, StoragePolicy.of("broken")) == (
            "this run may write up to 2.5 GB (2.4 GB of adversarial examples, runtime.keep=broken); 3.0 GB are free"
        )
        assert DiskEstimate(10**6, 10**6).check(folder, StoragePolicy.of("broken")) is None  # not worth a line
        return
    with pytest.raises(UserError) as caught:
        room.check(folder, StoragePolicy.of("broken"))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def done(folder, keep, *more):
    GlobalHydra.instance().clear()
    words = ["attack=pgd", "attack.steps=3", "dataset.limit=40", "runtime.chunk=16", "runtime.progress=false"]
    with initialize_config_dir(CONF, version_base=None):
        composed = compose("run", [*words, "threat.eps=0.25", f"runs_dir={folder}", f"runtime.keep={keep}", *more])
    return evaluate(composed, {"attack": "pgd", "defense": "none"}, "python run.py attack=pgd").run


def kept(run):
    """(sample, stage) of every example on disk."""
    found = [load_file(path) for path in sorted(run.path.glob("adversarial/*.safetensors"))]
    return {(int(s), int(k)) for each in found for s, k in zip(each["sample"], each["stage"], strict=True)}


def rows(run):
    table = pd.concat(part.to_pandas() for part in run.read_parts())
    return table[table["stage"] != "clean"]


def verified(run, capsys):
    status = verify.main([str(run.path)])
    content = json.loads((run.path / "verification.json").read_text())
    return status, capsys.readouterr().out, content


def test_a_run_stores_what_its_policy_says_and_more_when_it_is_asked_for_more(tmp_path, capsys, caplog):
    run = done(tmp_path, "none")
    table = rows(run)
    broken = {(sample, 0) for sample in table["sample"][table["broken"]]}
    assert not (run.path / "adversarial").exists()

    run = done(tmp_path, "first 20")
    ids = set(verify.rebuild(run, run.manifest()).split.ids[:20].tolist())
    first = {key for key in broken if key[0] in ids}
    assert kept(run) == first
    assert 0 < len(first) < len(broken)
    assert not run.adversarial_path(2).exists()  # images 32 to 39
    status, said, content = verified(run, capsys)
    assert status == 1
    assert said.startswith("verified in part (examples): ")
    assert f"{len(first)} of {len(broken)} broken samples have their adversarial example stored" in said
    assert (content["verified"], content["partial"], content["checked"]) == (False, True, len(first))

    assert kept(done(tmp_path, "broken")) == broken
    assert verified(run, capsys)[0] == 0

    run = done(tmp_path, "all")
    assert kept(run) == {(sample, 0) for sample in table["sample"]}
    status, _, content = verified(run, capsys)
    assert (status, content["checked"], content["claimed"]) == (0, len(table), len(broken))
    assert {example.sample for example in examples(run, ["clean", "pgd/true"], 99)} == {key[0] for key in broken}

    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("part-*")}
    done(tmp_path, "none")  # takes nothing away, and does nothing again
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("part-*")} == before
    assert "by runtime.keep=all, as it began" in caplog.text

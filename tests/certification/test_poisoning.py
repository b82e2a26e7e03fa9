"""Poisoning, from trained networks to records: what is deployed is what is certified, and it survives real changes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gauntlet.certification.partition_votes import PartitionVotes
from gauntlet.commands.certification_report import certificate_lines
from gauntlet.config.shipped import CONF
from gauntlet.data.digits import Digits
from gauntlet.data.partitions import Buckets
from gauntlet.errors import UserError
from gauntlet.jobs.certification_job import certify
from gauntlet.models.voting_networks import VotingNetworks
from gauntlet.training.loop import BEST
from gauntlet.verification.certificate_evidence import _poisoning_problems
from gauntlet.verification.verify import verify

CHOICES = {"certifier": "poisoning", "defense": "partitioned", "model": "small_cnn"}
WORDS = [
    "certifier=poisoning", "defense=partitioned", "model.width=4", "dataset.limit=40", "runtime.progress=false",
    "defense.parts.model.partitions=6", "defense.parts.model.recipe.epochs=6",
    "defense.parts.model.recipe.batch_size=32",
]  # fmt: skip


def run(folder, *words):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", [*WORDS, f"runs_dir={folder}", *words])
    return certify(cfg, CHOICES, "python run.py " + " ".join(WORDS))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def done(root):
    return run(root)


@pytest.mark.parametrize("rule", ["votes", "runoff"])
def test_the_largest_score_is_the_prediction_that_is_certified(rule):
    """Networks that say one fixed thing each, equal votes and equal scores among them."""
    rng = np.random.default_rng(0)
    networks = VotingNetworks([torch.nn.Identity() for _ in range(5)])
    said = torch.from_numpy(rng.integers(0, 2, (5, 300, 4))).float()
    networks.each = lambda x: said
    votes = PartitionVotes(networks, Buckets(5), rule)
    predict, _ = votes.certified(votes.ballot(torch.zeros(300, 1)))
    scores = votes.scores(torch.zeros(300, 1))
    assert scores.argmax(1).tolist() == predict.tolist()
    assert (scores.topk(2, 1).values.diff(dim=1) < 0).all()  # no two share the largest


def test_records_hold_what_is_deployed_and_are_verified(done):
    (table,) = done.run.read_parts()
    rows = table.to_pylist()
    assert {row["kind"] for row in rows} == {"sound_det"}
    assert {row["trials"] for row in rows} == {6}
    for row in rows:
        assert 0 <= row["radius"] <= row["counts"][0] // 2
    assert sum(row["correct"] for row in rows) > 8  # beyond chance
    told = "\n".join(certificate_lines(done))
    assert "6 networks that vote, each SmallCNN" in told
    assert done.manifest["card"]["forwards"] == 6
    report = verify(done.run)
    assert report.verified
    assert any("5 more networks" in note for note in report.notes)


@pytest.mark.parametrize(
    ("rule", "copies", "votes", "most"),
    [("votes", 1, 5, 2), ("votes", 2, 5, 5), ("runoff", 1, 5, 3), ("runoff", 2, 5, 6)],
)
def test_a_record_of_more_changes_than_votes_allow_is_a_problem(rule, copies, votes, most):
    """Six networks: a change turns at most one of them, or two; turning all that are for a class is always enough."""
    networks = VotingNetworks([torch.nn.Identity() for _ in range(6)])
    mechanism = PartitionVotes(networks, Buckets(6 // copies, copies), rule)

    def problems(radius, trials=6):
        return list(_poisoning_problems(SimpleNamespace(counts=[votes], trials=trials, radius=radius), mechanism))

    assert not problems(most)
    assert f"{votes} votes of 6 networks can certify {most} changes" in problems(most + 1)[0]
    assert problems(0.5)
    assert problems(0, trials=7)


def test_a_trained_network_is_kept_and_the_rest_is_trained_again(done, root):
    folders = sorted(path for path in (root / "_trained").iterdir() if (path / BEST).exists())
    assert len(folders) == 6
    stamps = {folder: (folder / BEST).stat().st_mtime_ns for folder in folders}
    digest = done.manifest["weights"]["model"]
    (folders[2] / BEST).unlink()
    (folders[2] / "history.json").unlink(missing_ok=True)
    other = run(root, "defense.rule=runoff")
    assert other.manifest["weights"]["model"] == digest
    again = {folder: (folder / BEST).stat().st_mtime_ns for folder in folders}
    assert {folder for folder in folders if again[folder] != stamps[folder]} == {folders[2]}


def test_predictions_survive_as_many_changes_as_are_certified(done, root, monkeypatch):
    """Without one image of the training set one network is another, and what is certified against that stays."""
    original = Digits.split

    class WithoutTheFirst:
        def __init__(self, split):
            self.split = split

        def __len__(self):
            return len(self.split) - 1

        def read(self, positions, spread=map):
            at = range(len(self))[positions] if isinstance(positions, slice) else positions
            return self.split.read([number + 1 for number in at], spread)

    def split(self, part):
        return WithoutTheFirst(original(self, part)) if part == "train" else original(self, part)

    before = len([path for path in (root / "_trained").iterdir() if (path / BEST).exists()])
    monkeypatch.setattr(Digits, "split", split)
    other = run(root)
    assert len([path for path in (root / "_trained").iterdir() if (path / BEST).exists()]) == before + 1
    assert other.manifest["victim"] != done.manifest["victim"]
    old, new = (next(iter(each.run.read_parts())).to_pandas() for each in (done, other))
    sure = old["radius"] >= 1
    assert sure.sum() > 8
    assert (old["predict"] == new["predict"])[sure].all()


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["defense.parts.model.copies=9"], "copies=9"),
        (["defense.parts.model.partitions=0"], "at least 1"),
        (["defense.parts.model.weights=some.pt"], "leave out weights"),
        (["defense.parts.model.partitions=1000"], "take fewer partitions"),
        (["defense=none"], "defense=partitioned"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, words, cause):
    alone = words == ["defense=none"]
    kept = [word for word in WORDS if "parts" not in word and "width" not in word] if alone else WORDS
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", [*kept, *words, f"runs_dir={tmp_path}"])
    with pytest.raises(UserError, match=cause):
        certify(cfg, CHOICES, "")

"""Universal perturbations in a run: fitted once, to train images alone, kept, resumed, told and verified."""

import json
from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gauntlet.attacks.universal.spgd import SGA
from gauntlet.config.shipped import CONF
from gauntlet.data.digits import Digits
from gauntlet.errors import UserError
from gauntlet.evaluation import universal_fit
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.universal_fit import TrainImages, fitted, train_part
from gauntlet.jobs.attack_job import evaluate
from gauntlet.jobs.attack_setup import prepare
from gauntlet.leaderboard.collect import collect
from gauntlet.leaderboard.run_metadata import read_run
from gauntlet.metrics.fooling_ratio import fooling_of
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, Victim, plain
from gauntlet.verification import verify

CHOICES = {"attack": "sga", "defense": "none", "model": "small_cnn"}
SMALL = ("attack=sga", "attack.images=40", "attack.batch=20", "attack.epochs=2", "attack.step_size=0.5",
         "dataset.limit=40", "runtime.chunk=16", "runtime.progress=false", "threat.eps=0.3")  # fmt: skip


def composed(folder, *overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return compose("run", [*SMALL, f"runs_dir={folder}", *overrides])


def made(folder, *overrides):
    return evaluate(composed(folder, *overrides), CHOICES, "python run.py attack=sga")


@dataclass(frozen=True)
class Counted(Digits):
    """Digits that tell which images of which part are read, and which part is opened."""

    def split(self, part):
        READ.setdefault(part, set())
        split = super().split(part)
        return Watched(split, READ[part])


READ: dict[str, set[int]] = {}


class Watched:
    def __init__(self, split, seen):
        self.split, self.seen = split, seen

    def __getattr__(self, name):
        return getattr(self.split, name)

    def __len__(self):
        return len(self.split)

    def read(self, positions):
        batch = self.split.read(positions)
        self.seen |= set(batch.ids.tolist())
        return batch


def evaluation(heads=(), **knobs):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with torch.no_grad():
        network[1].weight.copy_(torch.sin(torch.arange(640.0)).reshape(10, 64))
        network[1].bias.zero_()
    network.requires_grad_(False)
    attack = SGA(**({"images": 40, "batch": 20, "epochs": 3} | knobs))
    return Evaluation(Victim(plain(network), (network,), heads), ("sga", attack), Threat("linf", 0.2), 10)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return made(tmp_path_factory.mktemp("runs"))


def test_a_run_has_a_row_for_every_image_and_tells_the_fooling_ratio(outcome):
    rows = pd.concat([table.to_pandas() for table in outcome.run.read_parts()])
    mine = rows[rows["stage"] == "sga/true"]
    assert len(mine) == 40
    (told,) = fooling_of(outcome.run, outcome.manifest)
    assert (told.samples, told.fooled) == (40, (mine["pred"] != mine["clean_pred"]).sum())
    assert told.right == (mine["pred"] == mine["label"]).sum()
    assert told.drop == pytest.approx((rows[rows["stage"] == "clean"]["broken"] == 0).mean() - told.right / 40)
    assert told.fooled > 0
    assert mine["forwards"].sum() == 0
    assert mine["distance"].max() <= 0.3 * (1 + 1e-6)


def test_the_manifest_tells_the_perturbation_and_its_cost(outcome):
    fit = outcome.manifest["fit"]["sga/true"]
    assert fit["digest"].startswith("sha256:")
    assert (fit["images"], fit["forwards"], fit["backwards"]) == (40, 40 + 2 * 4 * 40, 2 * 4 * 40)
    assert outcome.manifest["dataset"]["train"] == Digits().split("train").digest()
    assert outcome.manifest["coverage"] == "all"


def test_the_run_is_verified_and_the_leaderboard_reads_it(outcome):
    report = verify.verify(outcome.run)
    assert report.problems == []
    assert report.claimed == report.checked > 0
    root = outcome.run.path.parents[4]
    evidence = collect(read_run(outcome.run, root), root)
    assert evidence.problems == ()
    assert len(evidence.ids) == 40


def test_shards_and_later_runs_share_the_perturbation(outcome, tmp_path, monkeypatch):
    for shard in (0, 1):
        last = made(tmp_path, "runtime.shards=2", f"runtime.shard={shard}")
    assert last.manifest["fit"]["sga/true"]["digest"] == outcome.manifest["fit"]["sga/true"]["digest"]
    for chunk in range(3):
        assert last.run.read_part(chunk).equals(outcome.run.read_part(chunk))
    monkeypatch.setattr(universal_fit, "_fit", None)  # nothing is fitted again
    other = made(tmp_path, "dataset.limit=20")
    assert other.manifest["fit"] == last.manifest["fit"]
    assert len(list((tmp_path / "_universal").glob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    "change", ["seed=1", "threat.eps=0.2", "attack.epochs=3", "defense=trades", "attack.images=60"]
)
def test_what_decides_the_perturbation_is_in_its_key(outcome, tmp_path, change):
    job = prepare(composed(tmp_path, change), CHOICES, "")
    key = universal_fit._key(job.evaluation, job.evaluation.stages[0], job.train, job.manifest["victim"])
    assert f"{key}.safetensors" != outcome.manifest["fit"]["sga/true"]["file"]


def test_only_the_chosen_train_images_are_read_to_fit(tmp_path):
    READ.clear()
    data, run = Counted(), evaluation()
    fitted(run, train_part(run, data), "v", tmp_path, progress=False)
    chosen = TrainImages.chosen(Digits().split("train"), 40, run.seed, run.device)
    assert set(READ) == {"train"}
    assert READ["train"] == set(chosen.ids.tolist())


def test_images_are_chosen_by_the_seed_and_their_ids():
    split = Digits().split("train")
    cpu = torch.device("cpu")
    first, again, other = (TrainImages.chosen(split, 100, seed, cpu).ids for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first.diff() > 0).all()
    everything = TrainImages.chosen(split, None, 0, cpu)
    assert sorted(everything.ids.tolist()) == sorted(split.ids.tolist())
    x, y = everything.read(torch.tensor([3, 1]))
    assert torch.equal(x, split.read(everything.positions[[3, 1]]).x)
    assert y.tolist() == split.read(everything.positions[[3, 1]]).y.tolist()


def test_every_head_has_its_own_perturbation(tmp_path):
    base = evaluation()
    run = evaluation((Head("softened", lambda x, rng: base.victim.predict(x.square(), rng)),))
    done, facts = fitted(run, train_part(run, Digits()), "v", tmp_path, progress=False)
    assert set(facts) == set(done.fitted) == {"sga/true", "sga/softened"}
    assert facts["sga/true"]["digest"] != facts["sga/softened"]["digest"]
    assert [stage.attack.delta is not None for stage in done.stages] == [True, True]


class Killed(BaseException):
    """Like a signal: nobody expects it."""


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_fit_goes_on_to_the_same_bits(tmp_path, monkeypatch, after):
    run, data = evaluation(), Digits()
    straight, _ = fitted(run, train_part(run, data), "v", tmp_path / "straight", False)
    save, saves = universal_fit._save, []

    def dying(path, state, seconds):
        save(path, state, seconds)
        saves.append(state.step)
        if len(saves) == after:
            raise Killed

    monkeypatch.setattr(universal_fit, "_save", dying)
    with pytest.raises(Killed):
        fitted(run, train_part(run, data), "v", tmp_path / "broken", False, save_seconds=0.0)
    assert saves == list(range(1, after + 1))
    done, facts = fitted(run, train_part(run, data), "v", tmp_path / "broken", False, save_seconds=0.0)
    assert saves[after:] == list(range(after + 1, 7))
    assert torch.equal(done.fitted["sga/true"].delta, straight.fitted["sga/true"].delta)
    assert facts["sga/true"]["forwards"] == 40 + 3 * 4 * 40
    assert not list((tmp_path / "broken").glob("*.state"))


@pytest.mark.parametrize("name", ["safetensors", "state"])
def test_a_damaged_file_is_made_anew(tmp_path, name, caplog):
    run, data = evaluation(), Digits()
    first, facts = fitted(run, train_part(run, data), "v", tmp_path, False)
    path = (tmp_path / facts["sga/true"]["file"]).with_suffix(f".{name}")
    if name == "state":
        path.with_suffix(".safetensors").unlink()
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    again, _ = fitted(run, train_part(run, data), "v", tmp_path, False)
    assert torch.equal(again.fitted["sga/true"].delta, first.fitted["sga/true"].delta)
    assert "fitting the perturbation" in caplog.text


def test_the_file_says_what_it_cost(tmp_path):
    run = evaluation()
    _, facts = fitted(run, train_part(run, Digits()), "v", tmp_path, False)
    words = universal_fit.checkpoint_file.metadata(tmp_path / facts["sga/true"]["file"])
    assert json.loads(words["fit"])["images"] == 40


class NoTrain(Digits):
    def split(self, part):
        if part == "train":
            raise UserError("no Parquet file for the train part")
        return super().split(part)


@pytest.mark.parametrize(
    ("data", "knobs", "text"),
    [
        (NoTrain(), {}, "attack=sga learns from the train part of the data: no Parquet file .* digits, mnist"),
        (Digits(), {"images": 5000}, "attack.images=5000, but the train part of digits has 107"),
        (Digits(), {"images": None, "batch": 2000}, "attack.batch=2000, but there are 107"),
    ],
)
def test_mistakes(data, knobs, text):
    with pytest.raises(UserError, match=text):
        train_part(evaluation(**knobs), data)


def test_an_attack_that_learns_nothing_opens_no_train_part():
    run = replace(evaluation(), attack=("noop", type("Noop", (), {"needs": "gradient"})()))
    assert train_part(run, NoTrain()) is None


def test_a_surrogate_is_no_place_to_fit(tmp_path):
    with pytest.raises(UserError, match="fitted to the defense"):
        prepare(composed(tmp_path, "+defense@surrogates.a=none"), CHOICES, "")

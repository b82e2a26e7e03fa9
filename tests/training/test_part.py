"""Trained networks by configuration: shipped, cached, trained once, or brought along."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import torch
from torch import nn

from gauntlet.commands.ship_weights import ship
from gauntlet.errors import UserError
from gauntlet.models import checkpoint
from gauntlet.training import loop, weights_cache
from gauntlet.training.loop import BEST
from gauntlet.training.objectives.objective import Objective
from gauntlet.training.trained_network import TrainedNetwork
from gauntlet.training.weights_cache import canonical

MODEL = {"_target_": "gauntlet.models.small_cnn.SmallCNN", "classes": 10, "channels": 1, "size": 8, "width": 4}
SELECTION = {"_target_": "gauntlet.training.model_selection.Selection", "by": "clean", "eps": 0.15, "steps": 2}
RECIPE = {
    "_target_": "gauntlet.training.recipe.Recipe",
    "objective": {"_target_": "gauntlet.training.objectives.objective.Standard"},
    "epochs": 1,
    "selection": SELECTION,
}
ATTACK = {"_target_": "gauntlet.training.inner_attack.InnerPGD", "eps": "8/255", "steps": 1}


@pytest.fixture
def part() -> TrainedNetwork:
    return TrainedNetwork(MODEL, RECIPE)


@pytest.fixture
def trainings(monkeypatch):
    """How often a training took place."""
    calls = []
    monkeypatch.setattr(
        "gauntlet.training.trained_network.fit", lambda *args, **options: calls.append(1) or loop.fit(*args, **options)
    )
    return calls


def _load(part, few, cache, **options):
    return part.load(few, cache, progress=False, **options)


def test_what_a_killed_training_left_beside_its_weights_is_removed(part, few, tmp_path):
    folder = part.train(few, tmp_path, progress=False)
    before = {path.name for path in folder.iterdir()}
    (folder / "state.pt").write_bytes(b"half")
    old = folder / ".state.pt.4242-01234567.tmp"
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    part.train(few, tmp_path, progress=False)
    assert {path.name for path in folder.iterdir()} - {"train.lock"} == before - {"train.lock"}


def test_it_is_trained_once_and_then_taken_from_the_cache(part, few, tmp_path, trainings):
    first = _load(part, few, tmp_path)
    second = _load(part, few, tmp_path)
    assert trainings == [1]
    assert first.digest == second.digest == checkpoint.digest(second.module)
    assert first.source == "trained"
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"few-smallcnn-standard-{part.key(few)[:12]}"
    assert not second.module.training
    assert not any(weight.requires_grad for weight in second.module.parameters())


def test_shipped_weights_come_first(part, few, tmp_path, trainings, monkeypatch):
    folder = part.train(few, tmp_path / "cache", progress=False)
    metadata = ship(folder, "mine", tmp_path / "zoo")
    assert metadata["key"] == part.key(few)
    assert float(metadata["clean"]) >= float(metadata["robust"])
    monkeypatch.setattr(weights_cache.find, "__defaults__", (tmp_path / "zoo",))
    loaded = _load(part, few, tmp_path / "other")
    assert loaded.source == "zoo mine"
    assert loaded.digest == _load(part, few, tmp_path / "cache").digest
    assert trainings == [1]
    assert not (tmp_path / "other").exists()
    assert weights_cache.find("0" * 64) is None


def test_an_unfinished_training_cannot_be_shipped(tmp_path):
    with pytest.raises(UserError, match="no finished training"):
        ship(tmp_path, "mine", tmp_path)


def test_the_key_changes_with_everything_that_decides_about_the_weights(part, few):
    module = nn.Linear(1, 1)
    using = replace(part, uses=["base"])
    others = [
        replace(part, seed=1),
        replace(part, model=MODEL | {"width": 8}),
        replace(part, recipe=RECIPE | {"epochs": 2}),
        replace(
            part,
            recipe=RECIPE
            | {"objective": {"_target_": "gauntlet.training.objectives.objective.PGDAT", "attack": ATTACK}},
        ),
    ]
    keys = [part.key(few), part.key(replace(few, images=90)), *(other.key(few) for other in others)]
    keys += [using.key(few, {"base": module}), using.key(few, {"base": nn.Linear(1, 1)})]
    assert len(set(keys)) == len(keys)
    assert part.key(few, {"unused": module}) == part.key(few)
    assert part.key(replace(few, name="renamed")) == part.key(few)


def test_the_key_is_the_same_everywhere(part, few):
    assert part.key(few) == "2d0ee090ba9562e7aad21e4dc212269ff670313331945486c81a6e394ce1f41f"


def test_the_canonical_form_forgets_spelling():
    assert canonical({"b": 1.0, "a": [2.0, "x", None], "off": None}) == {"a": [2, "x", None], "b": 1}


def test_the_global_generator_does_not_matter(part, few, tmp_path):
    torch.manual_seed(1)
    first = _load(part, few, tmp_path / "a")
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert _load(part, few, tmp_path / "b").digest == first.digest
    assert torch.equal(torch.random.get_rng_state(), before)
    assert _load(replace(part, seed=1), few, tmp_path / "c").digest != first.digest


def test_weights_can_be_brought_along(part, few, tmp_path, trainings):
    trained = _load(part, few, tmp_path)
    path = next(tmp_path.glob(f"*/{BEST}"))
    brought = _load(replace(part, weights=str(path)), few, tmp_path / "none")
    assert (brought.digest, brought.source) == (trained.digest, f"file {path.name}")
    included = _load(replace(part, weights="included"), few, tmp_path / "none")
    assert included.source == "included"
    assert included.digest != trained.digest
    assert trainings == [1]
    assert not (tmp_path / "none").exists()


class Judge(Objective):
    """An objective with a frozen network of another part."""

    def __init__(self, base: nn.Module):
        self.base = base

    def losses(self, model, x, y, z, rng):
        assert not self.base.training
        return nn.functional.cross_entropy(model(x) + self.base(x), y, reduction="none")


def test_an_objective_gets_the_networks_that_the_part_uses(part, few, tmp_path, monkeypatch):
    monkeypatch.setattr("gauntlet.training.objectives.objective.Judge", Judge, raising=False)
    base = _load(replace(part, weights="included"), few, tmp_path).module
    before = checkpoint.digest(base)
    objective = {"_target_": "gauntlet.training.objectives.objective.Judge", "base": None}
    using = replace(part, recipe=RECIPE | {"objective": objective}, uses=["base"])
    assert using.built_recipe({"base": base}).objective.base is base
    _load(using, few, tmp_path, given={"base": base, "other": base})
    assert checkpoint.digest(base) == before
    with pytest.raises(UserError, match="uses base"):
        _load(using, few, tmp_path)


class Odd(nn.Module):
    """Gives what it is told."""

    def __init__(self, what: str):
        super().__init__()
        self.what, self.weight = what, nn.Parameter(torch.ones(1))

    def forward(self, x):
        if self.what == "nan":
            return torch.full((len(x), 10), torch.nan) * self.weight
        if self.what == "rank":
            return x.flatten(1).sum(1) * self.weight
        return {"logits": x}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (MODEL | {"classes": 100}, "model gives 100 classes, data set few has 10"),
        (MODEL | {"channels": 3}, "cannot take images of shape"),
        ({"_target_": "gauntlet.models.small_cnn.Odd", "what": "nan"}, "NaN"),
        ({"_target_": "gauntlet.models.small_cnn.Odd", "what": "rank"}, "scores of shape"),
        ({"_target_": "gauntlet.models.small_cnn.Odd", "what": "dict"}, "gives a dict"),
        ({"_target_": "gauntlet.training.objectives.objective.Standard"}, "does not give a torch.nn.Module"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_training(model, words, part, few, tmp_path, monkeypatch):
    monkeypatch.setattr("gauntlet.models.small_cnn.Odd", Odd, raising=False)
    with pytest.raises(UserError, match=words):
        _load(replace(part, model=model), few, tmp_path)
    assert not list(tmp_path.iterdir())


class OwnWeights(nn.Module):
    """A linear classifier that comes with its weights, as a function of a user's that loads a file gives it."""

    def __init__(self, after=lambda z: z):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            self.layer, self.after = nn.Linear(64, 10), after

    def forward(self, x):
        return self.after(self.layer(x.flatten(1)))


def test_weights_of_the_users_own_are_never_trained_over_unasked(part, few, tmp_path, monkeypatch):
    recipe = part.built_recipe({})
    monkeypatch.setattr("gauntlet.training.trained_network.build", lambda node: OwnWeights())
    monkeypatch.setattr(TrainedNetwork, "built_recipe", lambda self, given: recipe)
    with pytest.raises(UserError, match=r"comes with weights of its own.*checkpoint=included"):
        _load(part, few, tmp_path)
    own = _load(replace(part, weights="included"), few, tmp_path)
    assert torch.equal(own.module.layer.weight, OwnWeights().layer.weight)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (lambda z: z.detach(), "cannot be trained"),
        (lambda z: torch.zeros_like(z).detach(), "cannot be trained"),
        (lambda z: z.argmax(1), "int64"),
        (lambda z: z.to_sparse(), "sparse"),
        (lambda z: z.to("meta"), "device meta"),
    ],
)
def test_a_network_that_cannot_be_trained_is_told_so(after, said, part, few, tmp_path, monkeypatch):
    recipe, network = part.built_recipe({}), OwnWeights(after)
    monkeypatch.setattr("gauntlet.training.trained_network.build", lambda node: network)
    monkeypatch.setattr(TrainedNetwork, "built_recipe", lambda self, given: recipe)
    with pytest.raises(UserError, match=said):
        part.train(few, tmp_path, progress=False)


def test_a_recipe_that_does_not_fit_is_refused_before_training(part, few, tmp_path):
    for recipe in (
        RECIPE | {"optimizer": "adam"},
        RECIPE | {"_target_": "gauntlet.training.objectives.objective.Standard"},
    ):
        with pytest.raises(UserError):
            _load(replace(part, recipe=recipe), few, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(part, few, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="runs_dir"):
        _load(part, few, tmp_path / "file")


def test_a_second_process_waits_and_says_for_whom(part, few, tmp_path, trainings, caplog, monkeypatch):
    monkeypatch.setattr("gauntlet.system.lock.BEAT", 0.1)
    folder = part.folder(few, tmp_path, part.key(few))
    folder.mkdir()
    (folder / "train.owner").write_text("process 42 on elsewhere\n")
    waiting = threading.Thread(target=part.train, args=(few, tmp_path), kwargs={"progress": False})
    with caplog.at_level(logging.WARNING), filelock.FileLock(folder / "train.lock"):
        waiting.start()
        while not caplog.messages:
            time.sleep(0.01)
        assert caplog.messages == [f"waiting for process 42 on elsewhere, which works on {folder}"]
        assert trainings == []
    waiting.join()
    assert trainings == [1]
    assert (folder / BEST).exists()


def test_the_lock_of_a_dead_process_is_free(part, few, tmp_path, caplog):
    folder = part.folder(few, tmp_path, part.key(few))
    folder.mkdir()
    code = "import filelock, sys, time; filelock.FileLock(sys.argv[1]).acquire(); print(1, flush=True); time.sleep(99)"
    owner = subprocess.Popen([sys.executable, "-c", code, folder / "train.lock"], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "1\n"
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    part.train(few, tmp_path, progress=False)
    assert (Path(folder) / BEST).exists()
    assert not caplog.messages

"""PubDef: examples of sources that are made once, never of the network that learns, and the weights of a game."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.training import resume_state
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.loop import BEST, fit
from gauntlet.training.objectives.pubdef import PubDefObjective, equilibrium
from gauntlet.training.trainer import TrainingRun
from gauntlet.training.transfer_examples import TransferExamples

CPU = torch.device("cpu")
PGD = InnerPGD(eps=0.1, steps=2)


@pytest.fixture
def sources(make_net):
    return {"normal": make_net(steps=5).eval(), "linf": make_net(steps=9).eval()}


@pytest.fixture
def ready(few, make_net, sources):
    """An objective whose examples are there."""
    objective = PubDefObjective(PGD, **sources, copies=2, limit=50)
    objective.begin(make_net())
    objective.prepare(make_net(), few.split("validation"), 0, CPU)
    objective.collect(few.split("train"), 0, CPU, None, False)
    return objective


def test_examples_are_of_the_sources_and_never_of_the_network_that_learns(ready, few, sources, batch, rng):
    class Poison(nn.Module):
        def forward(self, x):
            raise AssertionError("the network that learns is attacked")

    z = ready.examples(Poison(), batch.x, batch.y, rng)
    assert (z - batch.x).abs().max() <= 0.1 + 1e-6
    number, copy = ready.drawn(rng), rng.stream("copy").integers((1,), 2).squeeze(1)
    whole = few.split("train").read(list(range(100)))
    for which, (name, source) in enumerate(sources.items()):
        for again in range(2):
            made = PGD(source, whole.x, whole.y, Rng(0, whole.ids, f"transfer/{name}/{again}"))
            at = (number == which) & (copy == again)
            assert at.any()
            assert torch.equal(z[at], made[:32][at])
    assert torch.equal(ready.examples(Poison(), batch.x, batch.y, rng), z)


def test_the_loss_is_half_of_each_and_both_move_alike(ready, make_net, batch, rng):
    net, z = make_net().eval(), ready.examples(make_net(), batch.x, batch.y, rng)
    halves = [F.cross_entropy(net(images), batch.y, reduction="none") / 2 for images in (batch.x, z)]
    assert torch.allclose(ready.losses(net, batch.x, batch.y, z, rng), halves[0] + halves[1], atol=1e-6)
    moving = PubDefObjective(PGD, normal=make_net(), crop=2, flip=True)
    terms = moving.terms(net, batch.x, batch.y, batch.x, rng)
    assert torch.equal(terms["clean"], terms["attacked"])
    assert not torch.allclose(terms["clean"], halves[0])


def test_sources_are_drawn_by_their_weights(ready):
    draws = ready.drawn(Rng(0, torch.arange(4000), "draws"))
    counts = torch.bincount(draws, minlength=2).double()
    assert float((counts - 2000).square().sum() / 2000) < 10.8  # chi-square, one degree of freedom, p = 0.001
    ready._mixture[:] = [0.9, 0.1]
    assert float(ready.drawn(Rng(0, torch.arange(4000), "draws")).double().mean()) == pytest.approx(0.1, abs=0.02)


def test_the_weights_are_the_equilibrium_of_the_game(few, make_net, sources):
    assert equilibrium(np.eye(3)) == pytest.approx([1 / 3] * 3)  # nothing in common: all alike
    a, b = 0.5, 0.2  # covered by the other one: q = (1 - a, 1 - b) / (2 - a - b)
    assert equilibrium(np.array([[1, b], [a, 1]])) == pytest.approx([0.5 / 1.3, 0.8 / 1.3], abs=1e-6)
    assert equilibrium(np.array([[1.0, 0.9], [0.1, 0.2]])) == pytest.approx([1, 0], abs=1e-6)  # one covers all
    objective = PubDefObjective(PGD, **sources, weights="equilibrium", limit=50)
    objective.begin(make_net())
    objective.prepare(make_net(), few.split("validation"), 0, CPU)
    columns = objective.columns()
    assert list(columns) == ["weight/normal", "weight/linf"]
    assert sum(columns.values()) == pytest.approx(1)


def test_files_are_read_again_only_where_they_are_of_the_same_source(few, sources, make_net, tmp_path):
    split, ids = few.split("train"), torch.as_tensor(few.split("train").ids)
    zeros = torch.zeros(len(ids), dtype=torch.int64)
    first = TransferExamples(sources, PGD, 1)
    spent = first.fill(split, 0, CPU, tmp_path)
    assert spent == (2 * 2 * 100, 2 * 2 * 100)  # two sources, two steps
    path = tmp_path / f"{resume_state.EXAMPLES}-normal-0.pt"
    written = path.stat().st_mtime_ns
    again = TransferExamples(sources, PGD, 1)
    assert again.fill(split, 0, CPU, tmp_path) == spent
    assert path.stat().st_mtime_ns == written
    assert torch.equal(again.read(ids, zeros, zeros), first.read(ids, zeros, zeros))
    other = TransferExamples({**sources, "normal": make_net(steps=7).eval()}, PGD, 1)
    other.fill(split, 0, CPU, tmp_path)  # the digest of the source differs, so the file is none of its
    assert not torch.equal(other.read(ids, zeros, zeros), first.read(ids, zeros, zeros))
    path.write_bytes(b"torn")
    assert again.fill(split, 0, CPU, tmp_path) == spent


def test_a_killed_training_goes_on_to_the_same_bits_and_tidies_up(few, make_net, make_recipe, sources, tmp_path):
    def recipe():
        return make_recipe(objective=PubDefObjective(PGD, **sources, limit=50))

    fit(make_net(0.2), few, recipe(), tmp_path / "whole", identity="x", progress=False)
    run = TrainingRun(make_net(0.2), few, recipe(), 0, CPU)
    (tmp_path / "broken").mkdir()
    run.collect(tmp_path / "broken")
    steps = run.steps()
    for _ in range(4):
        next(steps)
    resume_state.save(tmp_path / "broken", "x", run.state())
    fit(make_net(0.2), few, recipe(), tmp_path / "broken", identity="x", progress=False)
    assert (tmp_path / "broken" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()
    assert not list((tmp_path / "broken").glob("*.pt"))
    assert io.BytesIO((tmp_path / "broken" / "history.json").read_bytes()).read().count(b"weight/linf") == 2


def test_what_does_not_fit_is_refused_in_one_line(ready, few, make_net, make_recipe, sources, batch, rng):
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))

    def begun(objective, net=None, **changes):
        run = TrainingRun(net or make_net(), few, make_recipe(objective=objective, **changes), 0, CPU)
        run.collect()
        list(run.steps())

    for make, words in (
        (lambda: begun(PubDefObjective(PGD)), "use defense=pubdef"),
        (lambda: begun(PubDefObjective(PGD, normal=wide)), "normal has 7 classes, and the network that is trained 10"),
        (lambda: begun(PubDefObjective(PGD, linf=make_net()), make_net()), "linf is the network that is trained"),
        (lambda: begun(PubDefObjective(PGD, **sources), crop=2), "set recipe.crop=0 and recipe.flip=false"),
        (lambda: ready.examples(make_net(), batch.x, batch.y, rng, torch.ones(32)), "are made before"),
        (lambda: TransferExamples(sources, PGD, 1).read(batch.ids, batch.y, batch.y), "no examples of the sources"),
        (lambda: PubDefObjective(PGD, copies=0), "recipe.objective.copies"),
        (lambda: PubDefObjective(PGD, weights="nash"), "choose one of uniform, equilibrium"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            make()
        assert "\n" not in str(caught.value)

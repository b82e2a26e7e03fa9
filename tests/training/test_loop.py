"""The loop: reproducible, paired, finite, and blind to the test part."""

import errno
import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gauntlet.errors import UserError
from gauntlet.training import history
from gauntlet.training.distributed import ALONE
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.loop import BEST, LAST, fit
from gauntlet.training.model_context import PassCounter, seeded, shuffle
from gauntlet.training.model_selection import Scores, Selection
from gauntlet.training.objectives.objective import PGDAT, Objective, TRADESObjective
from gauntlet.training.sample_weighting import SoftmaxWeighting, Weighting
from gauntlet.training.step import Player
from gauntlet.training.trainer import TrainingRun


def _same(one, other):
    left, right = load_file(one), load_file(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def train(few, make_net, make_recipe, tmp_path):
    """Train in a folder of that name; returns its history. `net` and `recipe` can be given."""

    def call(name, *, recipe=None, net=None, seed=0, dropout=0.0, **changes):
        recipe = recipe or make_recipe(**changes)
        net = net or make_net(dropout)
        return fit(net, few, recipe, tmp_path / name, identity=name, seed=seed, progress=False)

    return call


def test_a_training_learns_and_leaves_its_weights_and_history(train, tmp_path):
    done = train("run", epochs=6, batch_size=10, learning_rate=0.05)
    assert done.best.clean > 0.6
    assert len(done.epochs) == done.last.epoch == 6
    assert done.epochs[0].loss > done.epochs[-1].loss
    assert math.isnan(done.epochs[0].pgd)
    assert 0 <= done.best.pgd <= done.best.clean
    assert {path.name for path in (tmp_path / "run").iterdir()} == {BEST, LAST, "history.json"}
    assert history.read(tmp_path / "run") == replace(done, epochs=history.read(tmp_path / "run").epochs)
    json.loads((tmp_path / "run" / "history.json").read_text(), parse_constant=pytest.fail)


def test_best_and_last_are_what_they_say(train, few, make_net, make_recipe, tmp_path):
    recipe = make_recipe(steps=2, epochs=4, learning_rate=0.05)
    done = train("run", recipe=recipe)
    assert done.best.epoch == max(done.epochs, key=lambda e: (e.pgd, e.clean, e.epoch)).epoch
    for name, kept in ((BEST, done.best), (LAST, done.last)):
        net = make_net()
        net.load_state_dict(load_file(tmp_path / "run" / name))
        scores = recipe.selection.measure(net, few.split("validation"), 0, torch.device("cpu"), attack=True)
        assert scores == (kept.clean, kept.pgd)
        assert scores == (done.epochs[kept.epoch - 1].clean, done.epochs[kept.epoch - 1].pgd)


def test_the_same_seed_gives_the_same_bits_whatever_the_global_generator_holds(train, tmp_path):
    options = {"steps": 2, "dropout": 0.3, "ema": 0.9, "crop": 1, "flip": True, "epochs": 2}
    torch.manual_seed(1)
    train("one", **options)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    train("two", **options)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert _same(tmp_path / "one" / LAST, tmp_path / "two" / LAST)
    train("three", seed=1, **options)
    assert not _same(tmp_path / "one" / LAST, tmp_path / "three" / LAST)


def test_switched_off_parts_change_no_bit(train, make_recipe, tmp_path):
    train("standard", recipe=make_recipe())
    attack = InnerPGD(eps=0.15, steps=0, init="zero")
    kl = InnerPGD(eps=0.15, steps=2, loss="kl", init="normal")
    for name, objective in (("at", PGDAT(attack)), ("trades", TRADESObjective(kl, beta=0.0))):
        train(name, recipe=make_recipe(objective=objective))
        assert _same(tmp_path / "standard" / LAST, tmp_path / name / LAST)
    train("loose clip", recipe=make_recipe(clip=1e9))
    assert _same(tmp_path / "standard" / LAST, tmp_path / "loose clip" / LAST)


def test_the_average_is_kept_and_changes_nothing_about_the_training(few, make_net, make_recipe):
    plain, averaged = (TrainingRun(make_net(), few, make_recipe(ema=ema), 0, torch.device("cpu")) for ema in (0.0, 0.9))
    assert list(plain.steps()) == list(averaged.steps())
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), averaged.model.parameters(), strict=True))
    assert plain.kept is plain.model
    assert not torch.equal(averaged.kept.head.weight, averaged.model.head.weight)


class _Spy(Objective):
    """Standard training that notes what it is given."""

    def __init__(self):
        self.seen = []

    def losses(self, model, x, y, z, rng):
        self.seen.append((rng.ids.tolist(), x.clone(), rng))
        return nn.functional.cross_entropy(model(x), y, reduction="none")


def test_every_epoch_has_its_own_order_of_all_samples(train, few, make_recipe):
    spy = _Spy()
    train("run", recipe=make_recipe(objective=spy, batch_size=25, epochs=3))
    epochs = [[i for ids, _, _ in spy.seen[4 * e : 4 * e + 4] for i in ids] for e in range(3)]
    assert [sorted(ids) for ids in epochs] == [sorted(few.split("train").ids.tolist())] * 3
    assert len({tuple(ids) for ids in epochs}) == 3


def test_a_batch_is_never_short(train, make_recipe):
    spy = _Spy()
    train("run", recipe=make_recipe(objective=spy, batch_size=33, epochs=1))  # 100 = 3 * 33 + 1
    assert [len(ids) for ids, _, _ in spy.seen] == [33, 33, 33]
    spy.seen.clear()
    train("large", recipe=make_recipe(objective=spy, batch_size=512, epochs=1))
    assert [len(ids) for ids, _, _ in spy.seen] == [100]


def test_batch_size_changes_no_draw(train, make_recipe):
    images = []
    for size in (25, 50):
        spy = _Spy()
        train(f"run{size}", recipe=make_recipe(objective=spy, batch_size=size, epochs=1, crop=2))
        images.append({i: (x, rng.select(slice(k, k + 1)).bits((2,)))
                       for ids, xs, rng in spy.seen for k, (i, x) in enumerate(zip(ids, xs, strict=True))})  # fmt: skip
    assert images[0].keys() == images[1].keys()
    assert all(torch.equal(images[0][i][0], images[1][i][0]) for i in images[0])
    assert all(torch.equal(images[0][i][1], images[1][i][1]) for i in images[0])


@pytest.mark.parametrize(
    ("objective", "forwards", "backwards"),
    [
        (PGDAT(InnerPGD(eps=0.15, steps=3)), 4, 4),
        (TRADESObjective(InnerPGD(eps=0.15, steps=3, loss="kl", init="normal")), 6, 5),
    ],
)
def test_passes_are_counted(objective, forwards, backwards, train, make_recipe):
    done = train("run", recipe=make_recipe(objective=objective, epochs=1))
    assert (done.epochs[0].forwards, done.epochs[0].backwards) == (forwards, backwards)


def test_counting_ends_with_the_block(make_net, batch):
    net = make_net()
    with PassCounter(net) as passes:
        net(batch.x).sum().backward()
        with torch.no_grad():
            net(batch.x[:2])
    net(batch.x)
    assert (passes.forwards, passes.backwards) == (34, 32)


@pytest.mark.parametrize("changes", [{"learning_rate": 1e20}, {"learning_rate": 1e20, "ema": 0.9}])
def test_a_training_that_diverges_is_stopped_in_words(changes, train, tmp_path):
    with pytest.raises(UserError, match=r"epoch 1 .*lower recipe.learning_rate"):
        train("run", epochs=3, **changes)
    assert not (tmp_path / "run" / BEST).exists()


def test_the_batch_of_a_training_that_diverged_is_kept_for_inspection(train, few, tmp_path):
    with pytest.raises(UserError) as caught:
        train("run", epochs=3, learning_rate=1e20)
    place = tmp_path / "run" / "diverged.pt"
    assert str(caught.value).endswith(f"the batch lies in {place}")
    batch = torch.load(place, weights_only=True)
    assert not batch["losses"].isfinite().all()
    images = few.split("train").read([few.split("train").ids.tolist().index(i) for i in batch["ids"].tolist()])
    assert torch.equal(batch["images"], images.x)
    assert torch.equal(batch["labels"], images.y)
    assert {"examples", "model/head.weight"} <= batch.keys()


def test_where_the_disk_is_full_the_state_that_was_there_stays(few, make_net, make_recipe, tmp_path, monkeypatch):
    from gauntlet.system import atomic_file
    from gauntlet.training import resume_state as state

    def full(path, data):
        path.write_bytes(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    state.save(tmp_path, "one", {"a": 1})
    monkeypatch.setattr(atomic_file, "_write_synced", full)
    with pytest.raises(UserError, match=r"no space left for .*state.pt; free some"):
        state.save(tmp_path, "one", {"a": 2})
    assert state.load(tmp_path, "one") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == [state.STATE]
    with pytest.raises(UserError, match="no space left"):
        fit(make_net(), few, make_recipe(), tmp_path / "run", identity="", progress=False)


def test_every_epoch_tells_of_overfitting(few, make_net, make_recipe):
    run = TrainingRun(make_net(), few, make_recipe(steps=1, epochs=3), 0, torch.device("cpu"))
    list(run.steps())
    best = 0.0
    for epoch in run.history.epochs:
        best = max(best, epoch.pgd)
        assert epoch.overfitting == pytest.approx(best - epoch.pgd)
        assert 0 <= epoch.fgsm <= epoch.clean
        assert not epoch.catastrophic
    clean = TrainingRun(make_net(), few, make_recipe(epochs=1), 0, torch.device("cpu"))
    list(clean.steps())
    (epoch,) = clean.history.epochs
    assert math.isnan(epoch.fgsm)
    assert math.isnan(epoch.overfitting)


def test_the_alarm_rings_when_one_step_leaves_many_behind(few, make_net, make_recipe, monkeypatch):
    pgd, fgsm = iter([0.5, 0.5, 0.1, 0.1]), iter([0.55, 0.65, 0.7, 0.8])
    monkeypatch.setattr(Selection, "measure", lambda *args, **options: Scores(0.9, next(pgd)))
    monkeypatch.setattr(Selection, "single_step", lambda *args: next(fgsm))
    run = TrainingRun(make_net(), few, make_recipe(steps=1, epochs=4), 0, torch.device("cpu"))
    list(run.steps())
    assert [epoch.catastrophic for epoch in run.history.epochs] == [False, False, True, False]
    assert [epoch.overfitting for epoch in run.history.epochs] == pytest.approx([0, 0, 0.4, 0.4])


@pytest.mark.parametrize("options", [{"channels_last": True}, {"compiled": True}])
def test_the_way_it_is_carried_out_changes_sums_only(options, few, make_net, make_recipe, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: lambda *inputs: function(*inputs))  # no compiler is needed
    recipe = make_recipe(steps=1, epochs=1, ema=0.5)
    plain, other = (
        TrainingRun(make_net(), few, recipe, 0, torch.device("cpu")),
        TrainingRun(make_net(), few, recipe, 0, torch.device("cpu"), **options),
    )
    list(plain.steps())
    list(other.steps())
    for a, b in zip(plain.kept.parameters(), other.kept.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert "forward" not in other.model.__dict__
    assert other.history.epochs[0].forwards == plain.history.epochs[0].forwards


def test_a_smaller_format_is_for_the_passes_only(few, make_net, make_recipe):
    seen = []

    class Spy(PGDAT):
        def losses(self, model, x, y, z, rng):
            logits = model(z)
            seen.append((logits.dtype, torch.equal(logits, type(model).forward(model, z))))
            return nn.functional.cross_entropy(logits, y, reduction="none")

    recipe = make_recipe(objective=Spy(InnerPGD(eps=0.15, steps=1)), epochs=1, precision="bfloat16")
    run = TrainingRun(make_net(), few, recipe, 0, torch.device("cpu"))
    list(run.steps())
    assert set(seen) == {(torch.float32, False)}
    assert {weight.dtype for weight in run.model.parameters()} == {torch.float32}
    assert "forward" not in run.model.__dict__


class _Halves(Weighting):
    """Attacks the samples of even classes half as far, and counts the others double."""

    def factors(self, y, progress, memory):
        return torch.where(y % 2 == 0, 0.5, 1.0)

    def weights(self, batch, memory):
        assert not batch.losses.requires_grad
        return torch.where(batch.y % 2 == 0, 0.0, 2.0)


def test_samples_are_weighted_and_attacked_each_in_its_way(few, batch, rng, make_net, make_recipe):
    class Spy(PGDAT):
        def losses(self, model, x, y, z, draws):
            distance = (z - x).abs().flatten(1).amax(1)
            assert (distance <= torch.where(y % 2 == 0, 0.075, 0.15) + 1e-6).all()
            assert (distance[y % 2 == 1] > 0.1).all()
            return super().losses(model, x, y, z, draws)

    objective = Spy(InnerPGD(eps=0.15, steps=2))
    recipe = make_recipe(objective=objective, weighting=_Halves(), weight_decay=0.0, momentum=0.0)
    net, fused = make_net(steps=2).train(), make_net(steps=2).train()
    Player(net, recipe, ALONE, None)(batch.x, batch.y, rng, 1.0, (0.0, 0.0))
    factors, draws = _Halves().factors(batch.y, None, {}), rng.stream("objective")
    z = objective.examples(fused, batch.x, batch.y, draws, factors)
    (2 * objective.losses(fused, batch.x, batch.y, z, draws)[batch.y % 2 == 1].sum() / 32).backward()
    assert torch.allclose(net.head.weight, fused.head.weight - 0.1 * fused.head.weight.grad, atol=1e-6)


def test_equal_weights_change_no_bit(train, make_recipe, tmp_path):
    train("plain", recipe=make_recipe())
    train("later", recipe=make_recipe(weighting=SoftmaxWeighting(start=0.99)))
    assert _same(tmp_path / "plain" / LAST, tmp_path / "later" / LAST)


def test_nan_in_a_buffer_alone_is_found(few, make_net, make_recipe):
    net = make_net()
    net.register_buffer("router", torch.tensor(math.nan))
    run = TrainingRun(net, few, make_recipe(epochs=1), 0, torch.device("cpu"))
    with pytest.raises(UserError, match="router"):
        list(run.steps())


def test_the_state_of_another_training_is_refused(few, make_net, make_recipe, tmp_path):
    from gauntlet.training import resume_state as state

    state.save(tmp_path, "one", {"a": 1})
    assert state.load(tmp_path, "one") == {"a": 1}
    with pytest.raises(UserError, match="other settings"):
        fit(make_net(), few, make_recipe(), tmp_path, identity="two", progress=False)
    (tmp_path / state.STATE).write_bytes((tmp_path / state.STATE).read_bytes()[:-50])
    with pytest.raises(UserError, match="cannot be read"):
        fit(make_net(), few, make_recipe(), tmp_path, identity="one", progress=False)


def test_a_log_hears_of_every_epoch(few, make_net, make_recipe, tmp_path):
    heard = []

    class Log:
        def log(self, values, step):
            heard.append((step, dict(values)))

    fit(make_net(), few, make_recipe(), tmp_path, identity="", log=Log(), progress=False)
    assert [step for step, _ in heard] == [1, 2]
    assert {"training/loss", "training/clean"} <= heard[0][1].keys()
    assert "training/pgd" not in heard[0][1]


def test_the_order_depends_on_ids_seed_and_epoch():
    ids = torch.arange(50)
    assert sorted(shuffle(ids, 0, 0).tolist()) == list(range(50))
    orders = [shuffle(ids, *key).tolist() for key in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(order) for order in orders}) == 3
    backwards = ids.flip(0)
    assert backwards[shuffle(backwards, 0, 0)].tolist() == orders[0]


def test_seeded_draws_are_a_function_of_seed_and_name():
    def draw(*key):
        with seeded(*key):
            return torch.rand(3).tolist()

    assert draw(0, "a") == draw(0, "a")
    assert len({tuple(draw(*key)) for key in ((0, "a"), (0, "b"), (1, "a"))}) == 3

"""Calls that share passes leave the records of calls that run one after the other."""

import threading
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import pytest
import torch

from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.gauntlet import Gauntlet
from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.pma import PMA
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.full_passes import FullPasses, together
from gauntlet.evaluation.randomized_protocol import Protocol
from gauntlet.evaluation.tasks import Task
from gauntlet.threat_model.attack import compares, traits_of
from gauntlet.threat_model.merged_rng import merged
from gauntlet.threat_model.passes import RowLoss
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain
from tests.attacks.test_contract import NAMES, fit, shrunk
from tests.evaluation.test_evaluation import Net, evaluation, images


class RowByRow(Net):
    """The network with sums that no batch-mate changes: those of a matrix product round with the number of rows."""

    def forward(self, x):
        hidden = torch.relu(((x - 0.5).flatten(1)[:, :, None] * self.first).sum(1))
        return (hidden[:, :, None] * self.second).sum(1)


NET = RowByRow()


class Seen:
    """A forward that notes the size of each pass."""

    def __init__(self):
        self.network, self.sizes = Net(), []

    def __call__(self, x, rng):
        self.sizes.append(len(x))
        return self.network(x)


def both(batch=None, **changes):
    """The chunk with calls one after the other, and side by side; both raise where there is an error."""
    apart, together = (
        evaluate_chunk(
            evaluation(**{"victim": Victim(plain(NET), (NET,))} | changes, full_passes=full), batch or images()
        )
        for full in (False, True)
    )
    return apart, together


def assert_same(apart, together):
    assert together.rows.equals(apart.rows)
    assert all((together.adversarial[key] == apart.adversarial[key]).all() for key in apart.adversarial)


@pytest.mark.parametrize("name", NAMES)
def test_the_records_of_every_attack_are_the_same_to_the_last_bit(name):
    attack = shrunk(name)
    traits = traits_of(attack)
    if compares(attack) or traits.needs == "training-set" or traits.pool or getattr(attack, "ensemble", None):
        pytest.skip("it is called once, or needs images of a data set or several surrogates")
    attack = replace(attack, steps=4) if hasattr(attack, "steps") else attack
    assert_same(*both(images(14), attack=(name, attack), threat=fit(attack), batch_size=4))


def noisy(x, rng):
    return NET(x + rng.stream("noise").normal(tuple(x.shape[1:]), dtype=x.dtype) / 20)


FEW = Protocol(draws=10)

VICTIMS = {
    "random": Victim(noisy, (NET,), randomized=True, draws=2),
    "rejecting": Victim(Seen(), (NET,), accepts=lambda x, rng: 1 - (x - 0.5).abs().flatten(1).amax(1)),
}


@pytest.mark.parametrize("victim", VICTIMS.values(), ids=VICTIMS)
def test_so_are_those_on_random_and_rejecting_defenses(victim):
    assert_same(*both(images(12), victim=victim, protocol=FEW, attack=("pgd", PGD(steps=3)), batch_size=3))


def test_so_are_those_of_targeted_attacks_and_of_two_heads():
    threat = replace(Threat("linf", 0.1), goal="targeted", target="random")
    assert_same(*both(threat=threat, attack=("pma", PMA(steps=6)), batch_size=7))


@pytest.mark.parametrize("attack", [PGD(steps=20), PMA(steps=10), APGD(steps=20)], ids=lambda a: type(a).__name__)
def test_passes_are_full(attack):
    apart, together = Seen(), Seen()
    for seen, full in ((apart, False), (together, True)):
        run = evaluation(victim=Victim(seen, (NET,)), attack=("it", attack), batch_size=16, full_passes=full)
        evaluate_chunk(run, images(160))
    assert sum(together.sizes) == sum(apart.sizes)
    assert max(together.sizes) == 16
    least = -(-sum(together.sizes) // 16)
    assert len(together.sizes) <= 1.15 * least < len(apart.sizes)


def test_a_pass_that_fails_is_an_error_of_its_own_samples_alone():
    """The network cannot pass one of the images, but for the judge."""

    def brittle(x, rng):
        if torch.is_grad_enabled() and (rng.ids == 50).any():
            raise RuntimeError("no")
        return NET(x)

    apart, together = both(victim=Victim(brittle, (NET,)), batch_size=7)
    assert_same(apart, together)
    errors = together.rows.to_pandas().query("error.notna()")
    assert 0 < len(errors) <= 7
    assert 50 in set(errors["sample"])


@pytest.mark.parametrize("cause", [UserError("stop"), KeyboardInterrupt()], ids=lambda cause: type(cause).__name__)
@pytest.mark.parametrize("where", ["pass", "call", "between"])
def test_what_ends_a_run_leaves_no_thread(cause, where, monkeypatch):
    passes = []

    def fails(*_):
        passes.append(1)
        if len(passes) > 20:
            raise cause

    if where == "call":
        monkeypatch.setattr("gauntlet.attacks.projected_ascent.margins", lambda *a: fails() or torch.ones(len(a[1])))
    victim = Victim(lambda x, rng: (where == "pass" and fails()) or NET(x), (NET,))

    def advance(stage, count, due):
        if where == "between" and stage != "clean" and count:
            raise cause

    before = threading.active_count()
    with pytest.raises(type(cause)) as held:
        evaluate_chunk(evaluation(victim=victim, batch_size=7), images(), advance)
    assert threading.active_count() == before
    assert held.value is cause  # with its traceback, and the frames in it


@dataclass(frozen=True)
class Alone:
    """An attack of a user's, who may keep a state of which nobody knows."""

    needs: ClassVar[str] = "gradient"
    log: list = field(default_factory=list)

    def __call__(self, head, x, y, *, threat, rng):
        self.log.append(threading.current_thread())
        head.scores(x, rng)
        return x


def test_calls_of_a_users_attack_run_one_after_the_other():
    attack = Alone()
    evaluate_chunk(evaluation(attack=("alone", attack), batch_size=7), images())
    assert set(attack.log) == {threading.current_thread()}
    assert len(attack.log) > 1


def test_few_calls_at_a_time_are_enough(monkeypatch):
    monkeypatch.setattr("gauntlet.evaluation.chunk.MOST_BYTES", 0)
    monkeypatch.setattr(FullPasses, "AT_ONCE", 1)
    assert_same(*both(attack=("gauntlet", Gauntlet(steps=4, rounds=2, trial=0)), batch_size=9))


def test_rows_of_several_streams_draw_what_they_would_alone():
    one, other = Rng(3, torch.arange(5), "a"), Rng(3, torch.arange(4, 9), "b")
    both = merged([(one, slice(0, len(one.ids))), (other, slice(0, len(other.ids))), (one, slice(0, 2))])
    parts = (one, other, one.select(slice(0, 2)))
    drawn = both.stream("x").normal((2, 3), draw=torch.arange(12))
    alone = torch.cat(
        [
            part.stream("x").normal((2, 3), draw=at)
            for part, at in zip(parts, torch.arange(12).split([5, 5, 2]), strict=True)
        ]
    )
    assert torch.equal(drawn, alone)
    mask = torch.arange(12) % 2 == 0
    assert torch.equal(both.select(mask).integers((4,), 7), both.integers((4,), 7)[mask])
    assert merged([(one, slice(0, 1))] * 2).name == "a"
    with pytest.raises(AttributeError, match="no one name"):
        _ = both.name


def test_a_forward_that_asks_for_the_name_of_its_stream_is_passed_one_stream_at_a_time():
    def named(x, rng):
        return NET(x) + Rng(rng.seed, rng.ids, rng.name + "!").normal((5,), dtype=x.dtype) / 10

    victim = Victim(named, (NET,), randomized=True)
    assert_same(*both(images(12), victim=victim, protocol=FEW, attack=("pgd", PGD(steps=2)), batch_size=4))


def test_images_pass_at_once_outside_of_a_call():
    seen = Seen()
    FullPasses([seen], 4).forward(seen, images().x, Rng(0, images().ids))
    assert seen.sizes == [40]


def test_a_call_has_the_autocast_of_its_owner():
    def product():
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype, torch.is_autocast_enabled("cpu")

    with torch.autocast("cpu", torch.bfloat16):
        inside = Task(product)
    outside = Task(product)
    for task in (inside, outside):
        task.resume()
    assert inside.result() == (torch.bfloat16, True)
    assert outside.result() == (torch.float32, False)


def test_calls_that_come_from_one_pass_read_together(monkeypatch):
    together, forward = [], plain(NET)
    real = FullPasses._read
    monkeypatch.setattr(FullPasses, "_read", lambda self: together.append(len(self._reads)) or real(self))
    passes = FullPasses((forward,), 9)

    def call(number):
        passes.forward(forward, images().x[:3], Rng(0, torch.arange(3)))
        return [mask.tolist() for mask in passes.read(torch.arange(3) == number, torch.ones(3, dtype=torch.bool))]

    found = [task.result() for task in passes.side_by_side([partial(call, number) for number in range(3)])]
    assert found == [[[number == at for at in range(3)], [True] * 3] for number in range(3)]
    assert together == [3]


def test_a_read_that_fails_fails_in_its_own_call(monkeypatch):
    forward = plain(NET)
    passes = FullPasses((forward,), 9)

    def call(number):
        passes.forward(forward, images().x[:3], Rng(0, torch.arange(3)))
        return len(passes.read(*([torch.ones(3, dtype=torch.bool)] if number else [None]))[0])

    found = [
        task.error or task.result() for task in passes.side_by_side([partial(call, number) for number in range(3)])
    ]
    assert isinstance(found[0], AttributeError)
    assert found[1:] == [3, 3]


def test_adjoining_rows_of_one_loss_are_asked_at_once():
    seen, logits = [], torch.arange(12.0).reshape(6, 2)

    def loss(rows, weight, bias=None):
        seen.append(len(rows))
        return rows * weight[:, None] if bias is None else rows + bias

    weight, bias = torch.arange(6.0), torch.arange(12.0).reshape(6, 2)
    parts = [RowLoss(loss, weight).select(slice(0, 2)), RowLoss(loss, weight[2:3]), RowLoss(loss, weight, bias)]
    whole = together([*parts[:2], parts[2].select(slice(3, 6))], [2, 1, 3])
    assert torch.equal(whole(logits), torch.cat([logits[:3] * weight[:3, None], logits[3:] + bias[3:]]))
    assert seen == [3, 3]
    assert torch.equal(together([RowLoss(loss, weight)], [6])(logits), logits * weight[:, None])

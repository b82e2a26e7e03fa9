"""Randomized defenses: the numbers that the three protocols should give are known in closed form."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import beta

from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.suite import Suite
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.gradient_draws import check_draws, measure, settled
from gauntlet.evaluation.randomized_protocol import Protocol, frozen
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import ATTACK_SCHEMA, RANDOM_SCHEMA
from gauntlet.metrics.attack_summary import summarize
from gauntlet.threat_model.counted_head import TRIALS, CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, Victim
from gauntlet.verification.repredict import repeated
from gauntlet.verification.row_checks import row_problems

COUNT = 200
IDS = torch.arange(COUNT)
X = torch.full((COUNT, 1, 1, 2), 0.5)
Y = torch.zeros(COUNT, dtype=torch.long)


def noisy(x, rng):
    """Class 0 where the first pixel and a uniform number in [-0.5, 0.5) add up to more than 0.3."""
    margin = x.flatten(1)[:, 0] - 0.3 + rng.uniform((), -0.5, 0.5, dtype=x.dtype)
    return torch.stack([margin, -margin], 1)


VICTIM = Victim(noisy, (), randomized=True, draws=2)


@dataclass(frozen=True)
class Down:
    """Makes every pixel as dark as it may: here the worst that can be done."""

    needs: ClassVar[str] = "score"

    def __call__(self, head, x, y, *, threat, rng):
        return threat.project(x - 1, x)


def run(tmp_path, victim=VICTIM, attack=None, eps=0.1, protocol=None, seed=0):
    """The tally and the rows of an evaluation, as from files."""
    protocol = protocol or Protocol()
    victim = protocol.applied(victim, seed)
    attack = attack or Down()
    coverage = "all" if victim.randomized else "standing"
    evaluation = Evaluation(
        victim, ("attack", attack), Threat("linf", eps), 2, seed, coverage=coverage, protocol=protocol
    )
    done = evaluate_chunk(evaluation, Batch(IDS, X, Y))
    folder = RunFolder(tmp_path)
    folder.write_part(0, done.rows, done.seconds)
    stages = ["clean", *(stage.name for stage in evaluation.stages)]
    rows = folder.read_part(0).to_pandas()
    assert not list(row_problems(rows, IDS.tolist(), stages, eps * (1 + 1e-6) + 1e-7, coverage))
    return summarize(folder, stages), rows


def test_expected_vote_and_any_of_n_differ_as_computed(tmp_path):
    # At x = 0.5 - 0.1 the defense is wrong where u < -0.1, in 40 % of its draws.
    wrong = 0.4
    total, rows = run(tmp_path / "expected")
    mean, (low, high) = total.expected.mean, total.expected.interval
    assert mean == pytest.approx(1 - wrong, abs=3 * math.sqrt(wrong * (1 - wrong) / 100 / COUNT))
    assert low < 1 - wrong < high
    vote = sum(math.comb(11, k) * wrong**k * (1 - wrong) ** (11 - k) for k in range(6))
    total, _ = run(tmp_path / "vote", protocol=Protocol("vote", 11))
    assert total.expected.mean == pytest.approx(vote, abs=3 * math.sqrt(vote * (1 - vote) / COUNT))
    survivors = (1 - wrong) ** 100
    assert survivors < 1e-20  # what "never misclassified in 100 calls" would say of the same candidates
    assert rows["wrong_share"].between(0, 1).all()
    attacked = rows[rows["stage"] == "attack/true"]
    assert (attacked["broken"] == (attacked["wrong_share"] > 0.5)).all()
    assert attacked["distance"].to_numpy() == pytest.approx(np.full(COUNT, 0.1), abs=1e-6)


def test_an_attack_gets_close_to_the_worst(tmp_path):
    total, _ = run(tmp_path, attack=PGD(steps=5, step_size=0.5, loss="margin"))
    assert 0.59 < total.expected.mean < 0.64


def test_one_lucky_draw_is_no_find(tmp_path):
    # 20 % of the draws are wrong at the clean image, and eps changes nothing worth speaking of.
    total, _ = run(tmp_path, eps=1e-6, attack=PGD(steps=20, loss="margin"))
    assert total.expected.mean == pytest.approx(0.7, abs=0.012)
    assert total.robust == COUNT


def test_the_fixed_protocol_gives_the_attacker_the_draw(tmp_path):
    def either(x, rng):  # whether up or down is the way out is drawn
        way = 2 * rng.integers((), 2).to(x.dtype) - 1
        margin = 0.05 - way * (x.flatten(1)[:, 0] - 0.5)
        return torch.stack([margin, -margin], 1)

    victim = Victim(either, (), randomized=True, draws=2)
    attack = PGD(steps=5, step_size=0.5, loss="margin")
    total, rows = run(tmp_path / "fixed", victim, attack, protocol=Protocol("fixed", 1))
    assert (total.robust, total.expected) == (0, None)
    assert list(rows.columns) == ATTACK_SCHEMA.names
    total, rows = run(tmp_path / "expected", victim, attack)
    assert total.expected.mean >= 0.5  # whichever way it goes, half of the draws point the other way
    assert list(rows.columns) == RANDOM_SCHEMA.names


def test_a_frozen_victim_has_one_draw_for_every_head_and_call():
    victim = frozen(Victim(noisy, (), (Head("other", noisy, draws=7),), randomized=True, draws=0), seed=3)
    one, other = (victim.predict(X, Rng(0, IDS, name)) for name in ("a", "b"))
    assert torch.equal(one, other)
    assert torch.equal(one, victim.surrogates[0].forward(X, Rng(1, IDS, "c")))
    assert not victim.randomized
    assert [head.draws for head in victim.heads] == [1, 1]
    few = victim.predict(X[5:8], Rng(0, IDS[5:8], "a"))
    assert torch.equal(few, one[5:8])


@dataclass(frozen=True)
class Jitter:
    """Moves the second pixel, on which nothing depends but the noise."""

    needs: ClassVar[str] = "score"
    amount: float = 0.0

    def __call__(self, head, x, y, *, threat, rng):
        z = x.clone()
        z[..., 1] += self.amount
        return threat.project(z, x)


def test_the_worst_of_many_is_judged_again_by_draws_that_did_not_choose_it(tmp_path):
    def lottery(x, rng):  # right in half of the draws; which ones depends on the second pixel
        chance = (rng.uniform((), dtype=x.dtype) + 1000 * x.flatten(1)[:, 1]) % 1
        return torch.stack([chance - 0.5, 0.5 - chance], 1)

    suite = Suite({f"move{k}": Jitter(0.00317 * (k + 1)) for k in range(15)})
    total, rows = run(tmp_path, Victim(lottery, (), randomized=True), suite, protocol=Protocol("expected", 10))
    chosen = 1 - rows.groupby("sample")["wrong_share"].max().mean()
    assert chosen < 0.33  # the mean of the least of sixteen numbers
    assert total.expected.mean == pytest.approx(0.5, abs=0.03)


def test_the_cost_of_an_attack_on_a_random_head_counts_every_draw():
    attack, threat, rng = PGD(steps=4, loss="margin"), Threat("linf", 0.01), Rng(0, IDS, "attack")
    sure = replace(VICTIM, predict=lambda x, rng: noisy(x, rng) + torch.tensor([9.0, 0.0]))
    counts = Counts.of(IDS)
    attack(CountedHead(sure.heads[0], sure.predict, counts, trials=TRIALS), X, Y, threat=threat, rng=rng)
    assert (counts.forwards == 5 * TRIALS).all()  # four gradients and the end point, the mean over ten draws each
    assert (counts.backwards == 4 * 2).all()
    lost = replace(VICTIM, predict=lambda x, rng: noisy(x, rng) - torch.tensor([9.0, 0.0]))
    counts = Counts.of(IDS)
    attack(CountedHead(lost.heads[0], lost.predict, counts, trials=TRIALS), X, Y, threat=threat, rng=rng)
    assert (counts.forwards == 2 * TRIALS).all()  # one gradient, and ten more draws before it is believed
    counts = Counts.of(IDS)
    head = CountedHead(VICTIM.heads[0], VICTIM.predict, counts, trials=TRIALS)
    assert not head.fooled(X, Y, rng).any()
    assert 1 < counts.forwards.double().mean() < 2  # asking ends with the first draw that is right
    assert counts.forwards.double().mean() == pytest.approx(1 / 0.7, abs=0.1)


def linear(ratio, size=256):
    """A victim whose gradient is a fixed direction plus noise of `ratio` times its squared length."""
    w = Rng(1, torch.arange(1), "w").normal((size,))[0]

    def predict(x, rng):
        weight = w + math.sqrt(ratio) * rng.normal((size,), dtype=x.dtype)
        margin = ((x.flatten(1) - 0.5) * weight).sum(1) + 2
        return torch.stack([margin, -margin], 1)

    return Victim(predict, (), randomized=True, draws=0)


@pytest.mark.parametrize(("ratio", "draws"), [(0.01, 2), (2.0, 16), (4.0, 32)])
def test_the_measured_draws_are_those_that_the_noise_calls_for(ratio, draws):
    # cos(g_n, g_2n) = 1 / sqrt((1 + r / n)(1 + r / 2n)) for independent draws: above 0.9 first at these n.
    assert (1 + ratio / draws) * (1 + ratio / 2 / draws) < 1 / 0.81
    assert draws == 2 or (1 + 2 * ratio / draws) * (1 + ratio / draws) > 1 / 0.81
    batch = Batch(IDS[:20], torch.full((20, 1, 16, 16), 0.5), Y[:20])
    found = measure(linear(ratio), batch, seed=0)
    assert found["true"]["draws"] == draws
    assert found["true"]["cosine"] == pytest.approx(((1 + ratio / draws) * (1 + ratio / 2 / draws)) ** -0.5, abs=0.03)
    assert settled(linear(ratio), found).draws == draws
    assert measure(linear(ratio), batch, seed=0, asked=50)["true"]["draws"] == 50


def test_more_draws_find_what_one_does_not(tmp_path):
    batch = Batch(IDS[:100], torch.full((100, 1, 16, 16), 0.5), Y[:100])
    accuracy = {}
    for draws in (1, measure(linear(4.0), batch, seed=0)["true"]["draws"]):
        victim = replace(linear(4.0), draws=draws)
        attack = ("pgd", PGD(steps=1, step_size=1.0, loss="margin", random_start=False))
        run_ = Evaluation(victim, attack, Threat("linf", 0.015), 2, coverage="all", protocol=Protocol("expected", 20))
        rows = evaluate_chunk(run_, batch).rows.to_pandas()
        accuracy[draws] = 1 - rows[rows["stage"] == "pgd/true"]["fresh_share"].mean()
    assert accuracy[32] < accuracy[1] - 0.1


def test_heads_without_randomness_get_one_draw_and_deterministic_victims_none():
    def still(x, rng):
        return noisy(x, Rng(0, rng.ids, "still"))

    victim = Victim(noisy, (), (Head("still", still, draws=20), Head("noisy", noisy)), randomized=True, draws=20)
    found = measure(victim, Batch(IDS, X, Y), seed=0)
    assert {name: entry["draws"] for name, entry in found.items()} == {"true": 20, "still": 1, "noisy": 2}
    assert measure(Victim(still, ()), Batch(IDS, X, Y), seed=0) == {}
    with pytest.raises(UserError, match="leave draws out"):
        check_draws(20, Victim(still, ()))
    with pytest.raises(UserError, match="at least 1"):
        check_draws(0, victim)


def test_the_batch_size_changes_no_record_of_a_randomised_victim():
    def rows(size):
        attack = ("pgd", PGD(steps=3, loss="margin"))
        run_ = Evaluation(VICTIM, attack, Threat("linf", 0.3), 2, batch_size=size, coverage="all")
        return evaluate_chunk(run_, Batch(IDS[:30], X[:30].double(), Y[:30])).rows

    assert rows(30).equals(rows(7))


def test_ties_of_a_vote_go_against_the_label_and_the_rival_is_named():
    votes = torch.tensor([[0, 1, 2], [0, 1, 2], [1, 0, 1], [1, 0, 2]])  # four draws on three samples
    vote = Protocol("vote", 4).verdict(votes, torch.zeros(3, dtype=torch.long), 3)
    assert vote.wrong.tolist() == [1, 1, 1]
    assert vote.share.tolist() == [0.5, 0.5, 1]
    assert vote.pred.tolist() == [1, 1, 2]
    assert Protocol("vote", 3).verdict(votes[:3], torch.zeros(3, dtype=torch.long), 3).wrong.tolist() == [0, 1, 1]
    share = Protocol("expected", 10).verdict(votes, torch.zeros(3, dtype=torch.long), 3)
    assert share.wrong.tolist() == [0.5, 0.5, 1]
    assert share.pred.tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("rule", "draws", "words"),
    [
        ("survivor", 10, "expected, vote, fixed"),
        ("expected", 9, "at least 10"),
        ("vote", 1, "at least 2"),
        ("fixed", 5, "leave it out"),
    ],
)
def test_a_bad_protocol_is_refused(rule, draws, words):
    with pytest.raises(UserError, match=words):
        Protocol(rule, draws)


@pytest.mark.parametrize("protocol", [Protocol("expected", 10), Protocol("vote", 5)], ids=lambda p: p.rule)
def test_the_verifier_repeats_predictions_and_shares(protocol):
    victim = replace(VICTIM, predict=lambda x, rng: torch.nn.functional.pad(noisy(x, rng), (0, 1), value=0.01))
    run_ = Evaluation(victim, ("down", Down()), Threat("linf", 0.1), 3, coverage="all", protocol=protocol)
    done = evaluate_chunk(run_, Batch(IDS, X, Y)).rows.to_pandas()
    for stage, z in (("clean", X), ("down/true", X - 0.1)):
        rows = list(done[done["stage"] == stage].itertuples())
        again = repeated(run_, z, IDS, Y)
        assert again.pred == [row.pred for row in rows]
        assert not [line for n, row in enumerate(rows) for line in again.lines(n, row, protocol.draws)]
        false = rows[0]._replace(fresh_share=rows[0].fresh_share + 0.5)
        assert next(again.lines(0, false, protocol.draws)).startswith("fresh_share is")


def test_a_vote_that_may_be_chance_is_withheld_and_counts_as_wrong():
    protocol = Protocol("vote", 100, alpha=0.001)
    votes = torch.stack([(torch.arange(100) >= hits).long() for hits in (67, 66, 50, 33, 100)], 1)
    verdict = protocol.verdict(votes, torch.zeros(5, dtype=torch.long), 3)
    assert verdict.pred.tolist() == [0, -1, -1, 1, 0]
    assert verdict.wrong.tolist() == [0, 1, 1, 1, 0]
    assert verdict.share.tolist() == pytest.approx([0.33, 0.34, 0.5, 0.67, 0])
    assert protocol.to_record() == protocol.identity() == {"rule": "vote", "draws": 100, "alpha": 0.001}
    assert Protocol("vote", 11).identity() == {"rule": "vote", "draws": 11}


def test_the_verifier_repeats_votes_that_are_withheld():
    run_ = Evaluation(
        VICTIM, ("down", Down()), Threat("linf", 0.015), 2, coverage="all", protocol=Protocol("vote", 20, 0.01)
    )
    done = evaluate_chunk(run_, Batch(IDS, X, Y)).rows.to_pandas()
    clean = done[done["stage"] == "clean"]
    assert (clean["pred"] == -1).any()
    assert repeated(run_, X, IDS, Y).pred == clean["pred"].tolist()


@pytest.mark.parametrize(("rule", "draws", "alpha"), [("vote", 100, 0.0), ("expected", 100, 0.5), ("vote", 5, 0.001)])
def test_unfit_alphas(rule, draws, alpha):
    with pytest.raises(UserError, match="protocol"):
        Protocol(rule, draws, alpha)


def test_golden_values_of_the_three_numbers():
    """Right with probability p ~ Beta(2, 2): half expected, half by vote, and next to nobody is never misclassified."""
    count, draws = 20_000, 100
    unit = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    p = torch.from_numpy(beta(2, 2).ppf(unit.numpy()))
    rng, y = Rng(0, torch.arange(count)), torch.zeros(count, dtype=torch.int64)
    votes = (rng.uniform((draws,), dtype=torch.float64) >= p[:, None]).long().T
    expected = Protocol("expected", draws).verdict(votes, y, 2)
    vote = Protocol("vote", 11).verdict(votes[:11], y, 2)
    assert 1 - float(expected.wrong.mean()) == pytest.approx(0.5, abs=0.005)
    assert 1 - float(vote.wrong.mean()) == pytest.approx(0.5, abs=0.01)
    survivors = [float((votes[:checks] == 0).all(0).double().mean()) for checks in (2, 5, 100)]
    assert survivors == pytest.approx([0.3, 0.107, 0.0006], abs=0.01)

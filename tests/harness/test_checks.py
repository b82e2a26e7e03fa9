"""Each red flag fires on a victim made for it, and none on an honest one."""

import pytest
import torch
from torch import nn

from attacks.pgd import PGD
from attacks.rays import RayS
from harness.checks import blunter, from_evidence, of_victim
from harness.data.contract import Batch
from harness.evaluate import Evaluation
from harness.rng import Rng
from harness.tally import Tally
from harness.threat import Threat
from harness.victim import Victim, plain


class Net(nn.Module):
    """Honest: two layers without global randomness."""

    def __init__(self):
        super().__init__()
        rng = Rng(7, torch.arange(1), "weights")
        self.first, self.second = rng.normal((16, 24))[0] / 4, rng.stream("2").normal((24, 5))[0] / 2

    def forward(self, x):
        return torch.relu((x - 0.5).flatten(1) @ self.first) @ self.second


NET = Net().eval()
IDS = torch.arange(32)
X = Rng(0, IDS, "x").uniform((1, 4, 4))


def flags(predict, attack=None, modules=(NET,), randomized=False, access="gradient"):
    victim = Victim(predict, modules, randomized=randomized, access=access)
    run = Evaluation(victim, ("pgd", attack or PGD(loss="margin")), Threat("linf", 0.05), 5)
    y = predict(X, Rng(0, IDS, "label")).argmax(1)
    rows = run.chunk(Batch(IDS, X, y)).rows.to_pandas()
    standing = set(rows[(rows["stage"] == "pgd/true") & ~rows["broken"]]["sample"])
    return {flag.name for flag in of_victim(run, Batch(IDS, X, y), standing)}


def test_an_honest_victim_has_none():
    assert flags(plain(NET)) == set()


def test_probabilities():
    assert "probabilities" in flags(lambda x, rng: NET(x).softmax(1))
    assert "probabilities" not in flags(lambda x, rng: NET(x).log_softmax(1))


def test_undeclared_randomness():
    def noisy(x, rng):
        return NET(x) + 0.01 * rng.normal((5,))

    assert "undeclared-randomness" in flags(noisy)
    assert "undeclared-randomness" not in flags(noisy, randomized=True)


def test_batch_dependence():
    assert "batch-dependence" in flags(lambda x, rng: NET(x) - NET(x).mean(0))


def test_training_mode():
    class Stubborn(nn.Module):
        def train(self, mode=True):
            self.training = True
            return self

    assert "training-mode" in flags(plain(NET), modules=(NET, Stubborn()))


def test_quantised_inputs_hide_gradients():
    assert "unlimited-budget" in flags(lambda x, rng: NET((x * 4).round() / 4))


def test_one_step_beats_a_bad_attack():
    assert "weaker-beats-stronger" in flags(plain(NET), attack=PGD(steps=1, step_size=1e-6))


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [((100, 0, 0), set()), ((100, 5, 0), {"zero-gradients"}), ((100, 0, 1), {"bad-gradients"})],
)
def test_gradients_in_the_evidence(gradients, expected):
    total = Tally(samples=100, robust=50, standing={"clean": 100, "a/true": 50}, gradients={"a/true": gradients})
    assert {flag.name for flag in from_evidence(total)} == expected


@pytest.mark.parametrize(("left", "expected"), [(50, set()), (48, set()), (47, {"masked-gradients"})])
def test_what_other_heads_find_is_a_sign_of_masking(left, expected):
    standing = {"clean": 100, "a/true": 50, "a/surrogate": left}
    total = Tally(samples=100, robust=left, standing=standing, cost=dict.fromkeys(standing, cost(1)))
    assert {flag.name for flag in from_evidence(total)} == expected


def cost(backwards):
    return {"attacked": 1, "forwards": 1, "backwards": backwards, "seconds": 0.0}


@pytest.mark.parametrize(("left", "expected"), [(50, set()), (40, {"black-box-wins"})])
def test_a_black_box_that_wins_is_a_sign_of_masking(left, expected):
    costs = {"clean": cost(0), "pgd/true": cost(9), "square/true": cost(0)}
    total = Tally(samples=100, robust=left, standing={"clean": 100, "pgd/true": 50, "square/true": left}, cost=costs)
    assert {flag.name for flag in from_evidence(total)} == expected
    alone = Tally(samples=100, robust=5, standing={"clean": 100, "square/true": 5}, cost=costs)
    assert from_evidence(alone) == []


@pytest.mark.parametrize(
    ("first", "left", "expected"),
    [("score", 40, {"decision-beats-scores"}), ("score", 50, set()), ("gradient", 40, set()), ("decision", 40, set())],
)
def test_decisions_that_win_are_a_sign_that_scores_mislead(first, left, expected):
    total = Tally(samples=100, robust=left, standing={"clean": 100, "one/true": 50, "rays/true": left})
    needs = {"one/true": first, "rays/true": "decision"}
    assert {flag.name for flag in blunter(total, needs)} == expected


def test_without_gradients_nothing_is_probed_with_them():
    def quantised(x, rng):
        return NET((x * 4).round() / 4)

    assert "unlimited-budget" in flags(quantised)
    assert flags(quantised, attack=RayS(queries=50), access="decision") == set()


def test_a_check_that_fails_is_a_flag_and_hides_nothing():
    def no_gradient(x, rng):
        return NET(x).detach()

    run = Evaluation(Victim(no_gradient, (NET,)), ("pgd", PGD(loss="margin")), Threat("linf", 0.05), 5)
    found = of_victim(run, Batch(IDS, X, NET(X).argmax(1)), set())
    assert "check-failed" in {flag.name for flag in found}
    assert all("\n" not in flag.detail for flag in found)

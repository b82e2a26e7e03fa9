"""Each red flag fires on a victim made for it, and none on an honest one."""

import pytest
import torch
from torch import nn

from gauntlet.attacks.black_box.rays import RayS
from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.suite import Suite
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.metrics.attack_summary import AttackSummary
from gauntlet.models.resnet import ResNet
from gauntlet.sanity_checks import clean_at_chance, decisions_beat_scores, from_evidence, noisy_gradients, of_victim
from gauntlet.sanity_checks.probe import Probe
from gauntlet.sanity_checks.reference_attacks import few_classes
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain


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
    rows = evaluate_chunk(run, Batch(IDS, X, y)).rows.to_pandas()
    survivors = set(rows[(rows["stage"] == "pgd/true") & ~rows["broken"]]["sample"])
    return {flag.name for flag in of_victim(run, Batch(IDS, X, y), survivors)}


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


def test_an_offset_of_the_scores_hides_neither():
    def noisy(x, rng):
        return NET(x) + 1e4 + 0.1 * rng.normal((5,))

    assert "undeclared-randomness" in flags(noisy)
    assert "batch-dependence" in flags(lambda x, rng: NET(x) - NET(x).mean(0) + 1e4)


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
    total = AttackSummary(
        samples=100, robust=50, survivors={"clean": 100, "a/true": 50}, gradients={"a/true": gradients}
    )
    assert {flag.name for flag in from_evidence(total)} == expected


@pytest.mark.parametrize(("left", "expected"), [(50, set()), (48, set()), (47, {"masked-gradients"})])
def test_what_other_heads_find_is_a_sign_of_masking(left, expected):
    survivors = {"clean": 100, "a/true": 50, "a/surrogate": left}
    total = AttackSummary(samples=100, robust=left, survivors=survivors, cost=dict.fromkeys(survivors, cost(1)))
    assert {flag.name for flag in from_evidence(total)} == expected


def cost(backwards):
    return {"attacked": 1, "forwards": 1, "backwards": backwards, "seconds": 0.0}


@pytest.mark.parametrize(("left", "expected"), [(50, set()), (40, {"black-box-wins"})])
def test_a_black_box_that_wins_is_a_sign_of_masking(left, expected):
    costs = {"clean": cost(0), "pgd/true": cost(9), "square/true": cost(0)}
    total = AttackSummary(
        samples=100, robust=left, survivors={"clean": 100, "pgd/true": 50, "square/true": left}, cost=costs
    )
    assert {flag.name for flag in from_evidence(total)} == expected
    alone = AttackSummary(samples=100, robust=5, survivors={"clean": 100, "square/true": 5}, cost=costs)
    assert from_evidence(alone) == []


@pytest.mark.parametrize(
    ("first", "left", "expected"),
    [("score", 40, {"decision-beats-scores"}), ("score", 50, set()), ("gradient", 40, set()), ("decision", 40, set())],
)
def test_decisions_that_win_are_a_sign_that_scores_mislead(first, left, expected):
    total = AttackSummary(samples=100, robust=left, survivors={"clean": 100, "one/true": 50, "rays/true": left})
    needs = {"one/true": first, "rays/true": "decision"}
    assert {flag.name for flag in decisions_beat_scores(total, needs)} == expected


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


def test_no_pass_has_more_images_than_a_batch_and_nothing_else_changes():
    sizes, values = [], []

    def watched(x, rng):
        sizes.append(len(x))
        return NET(x)

    for size in (8, 32):
        run = Evaluation(Victim(watched, (NET,)), ("pgd", PGD()), Threat("linf", 0.05), 5, batch_size=size)
        probe = Probe(run, Batch(IDS, X, NET(X).argmax(1)), set())
        values.append((probe.scores, probe.linearity.climb(), *probe.linearity.starts[1]))
        assert of_victim(run, Batch(IDS, X, NET(X).argmax(1)), set()) == []
        assert max(sizes) == size
    for few, many in zip(*values, strict=True):
        torch.testing.assert_close(few, many)


class Step(torch.autograd.Function):
    """The identity, with the gradient of other pixels."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.roll(3, -1).flip(-2)


def climbing(x, rng):
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(NET(leaf).logsumexp(1).sum(), leaf)
    return NET(x - 0.01 * gradient)


def climbing_by_backward(x, rng):
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        NET(leaf).logsumexp(1).sum().backward()
    return NET(x - 0.01 * leaf.grad)


def counting(x, rng):
    STATE.calls += 1
    return NET(x)


class State(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))


STATE = State().eval()


@pytest.mark.parametrize("predict", [climbing, climbing_by_backward, counting])
def test_a_forward_that_optimises_or_adapts(predict):
    assert "dynamic-forward" in flags(predict, modules=(NET, STATE))


def autocasting(x, rng):
    with torch.autocast("cpu", torch.bfloat16):
        return NET(x).float()


def test_reduced_precision():
    half = nn.Linear(2, 2).half().eval()
    assert "reduced-precision" in flags(autocasting)
    assert "reduced-precision" in flags(lambda x, rng: NET(x.half().float()))
    assert "reduced-precision" in flags(plain(NET), modules=(NET, half))
    assert "reduced-precision" not in flags(plain(NET), modules=(NET, nn.Linear(2, 2).double().eval()))


def test_a_gradient_that_is_not_that_of_the_forward():
    assert "gradient-mismatch" in flags(lambda x, rng: NET(Step.apply(x)))
    assert {"gradient-mismatch", "dead-start"} <= flags(lambda x, rng: NET((32 * x).round() / 32))


def test_a_function_that_curves_within_a_tenth_of_the_budget_has_the_gradient_that_it_has():
    assert "gradient-mismatch" not in flags(lambda x, rng: NET(torch.sin(400 * x)))
    assert "gradient-mismatch" in flags(lambda x, rng: NET(torch.sin(400 * Step.apply(x))))


def test_gradients_that_lead_nowhere():
    found = flags(lambda x, rng: NET(x + 0.05 * torch.sin(3000 * x)))
    assert {"shattered-gradients", "non-monotone-loss"} <= found
    assert "non-monotone-loss" in flags(lambda x, rng: NET(Step.apply(x)))


def test_constant_scores_are_no_dead_start():
    flat = flags(lambda x, rng: torch.eye(5)[:1].expand(len(x), 5) + 0 * x.sum())
    assert not {"dead-start", "gradient-mismatch", "shattered-gradients", "non-monotone-loss"} & flat


def suite(**knobs):
    return Suite({"pgd": PGD(steps=1, **knobs)})


@pytest.mark.parametrize(
    ("attack", "classes", "expected"),
    [
        (PGD(loss="dlr"), 3, False),
        (PGD(loss="margin", targets=9), 10, False), (suite(loss="margin", targets=9), 5, True),
        (suite(loss="ce"), 2, False),
    ],
)  # fmt: skip
def test_fewer_classes_than_a_stage_is_made_for(attack, classes, expected):
    run = Evaluation(Victim(lambda x, rng: NET(x)[:, :classes], (NET,)), ("a", attack), Threat("linf", 0.05), classes)
    flag = few_classes(Probe(run, Batch(IDS, X, torch.zeros(32, dtype=torch.long)), set()))
    assert (flag is not None) == expected


@pytest.mark.parametrize(("targets", "classes"), [(0, 2), (1, 3)])
def test_a_loss_that_needs_more_classes_is_refused(targets, classes):
    attack = PGD(loss="dlr", targets=targets)
    with pytest.raises(UserError, match=rf"needs {classes + 1} classes, there are {classes}; use attack.loss=margin"):
        Evaluation(Victim(lambda x, rng: NET(x), (NET,)), ("a", attack), Threat("linf", 0.05), classes)


def residual(norm=True):
    """A small residual network with batch norm, whose statistics are those of random images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ResNet(5, channels=1, width=8, mean=(0.5,), std=(0.3,))
        for _ in range(3):
            network(torch.rand(16, 1, 8, 8))
    return network.eval().requires_grad_(False)


def test_healthy_networks_have_no_flag():
    network, x = residual(), Rng(0, IDS, "x").uniform((1, 8, 8))
    for predict in (plain(network), lambda x, rng: 1000 * network(x), lambda x, rng: 1e-3 * network(x)):
        run = Evaluation(Victim(predict, (network,)), ("pgd", PGD(loss="margin")), Threat("linf", 0.02), 5)
        assert of_victim(run, Batch(IDS, x, network(x).argmax(1)), set()) == []
    assert flags(lambda x, rng: 1000 * NET(x)) == set()


def test_a_randomised_victim_of_honest_gradients_has_none():
    def noisy(x, rng):
        return NET(x + 0.05 * rng.normal(tuple(x.shape[1:])))

    assert flags(noisy, randomized=True) <= {"weaker-beats-stronger"}


@pytest.mark.parametrize(("cosine", "expected"), [(0.95, set()), (0.9, {"noisy-gradients"})])
def test_gradients_that_differ_with_the_most_draws(cosine, expected):
    draws = {"true": {"draws": 64, "cosine": cosine}, "declared": {"draws": 20}}
    assert {flag.name for flag in noisy_gradients(draws)} == expected


@pytest.mark.parametrize(
    ("right", "samples", "classes", "expected"),
    [
        (0, 8, 10, True),
        (1, 20, 10, True),
        (15, 100, 10, True),  # P[at least 15] = 0.073
        (17, 100, 10, False),  # 0.021
        (0, 1000, 10, True),  # far below chance: the labels are others
        (50, 100, 2, True),
        (60, 100, 2, False),
        (2, 1000, 1000, True),
        (10, 1000, 1000, False),
        (1, 1, 10, False),  # too few to tell, and nothing speaks against it
        (2, 2, 10, False),
        (1, 2, 10, True),
        (0, 0, 10, False),
    ],
)
def test_a_clean_accuracy_that_guessing_may_reach_is_a_flag(right, samples, classes, expected):
    total = AttackSummary(samples=samples, clean=right)
    assert [flag.name for flag in clean_at_chance(total, classes)] == ["clean-at-chance"] * expected

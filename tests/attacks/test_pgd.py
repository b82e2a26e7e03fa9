import pytest
import torch

from gauntlet.attacks.fgsm import FGSM
from gauntlet.attacks.pgd import PGD
from gauntlet.errors import UserError
from gauntlet.threat_model.threat import Threat


def test_one_full_step_from_the_image_is_fgsm(case):
    threat = Threat("linf", 0.05)
    fgsm, _ = case.attack(FGSM(), threat)
    pgd, _ = case.attack(PGD(steps=1, step_size=1.0, random_start=False), threat)
    assert torch.equal(fgsm, pgd)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_more_restarts_and_targets_only_add(case, norm):
    threat = Threat(norm, {"linf": 0.05, "l2": 0.2, "l1": 0.5}[norm])
    few = case.broken(case.attack(PGD(steps=5), threat)[0])
    more = case.broken(case.attack(PGD(steps=5, restarts=3), threat)[0])
    assert (more | ~few).all()


def test_a_targeted_run_can_reach_each_other_class(case):
    threat = Threat("linf", 0.5)
    z, _ = case.attack(PGD(steps=20, targets=4, loss="margin"), threat)
    assert case.broken(z).all()
    few, _ = case.attack(PGD(steps=20, targets=99, loss="margin"), threat)
    assert torch.equal(z, few)  # there are only four other classes


def test_the_cost_of_a_survivor(case):
    tiny = Threat("linf", 1e-6)
    _, counts = case.attack(PGD(steps=40, restarts=2), tiny)
    assert counts.forwards.tolist() == [82] * len(case.ids)
    assert counts.backwards.tolist() == [80] * len(case.ids)
    _, counts = case.attack(PGD(steps=10, targets=3), tiny)
    assert counts.forwards.tolist() == [34] * len(case.ids)  # one more for the order of the targets


def test_the_cosine_schedule():
    lengths = [step.length for step in PGD(steps=4, step_size=2.0, schedule="cosine").plan()]
    assert lengths == pytest.approx([2.0, 1.8478, 1.4142, 0.7654], abs=1e-4)


@pytest.mark.parametrize(
    "knobs",
    [{"steps": 0}, {"step_size": 0.0}, {"step_size": float("nan")}, {"restarts": 0}, {"targets": -1}, {"sparsity": 0.0},
     {"loss": "cw"}, {"schedule": "quadratic"}],
)  # fmt: skip
def test_bad_knobs(knobs):
    with pytest.raises(UserError):
        PGD(**knobs)


def test_survivors_keep_the_candidate_of_least_margin(case):
    threat = Threat("linf", 0.03)
    z, _ = case.attack(PGD(steps=20, loss="margin"), threat)
    one, _ = case.attack(PGD(steps=1, loss="margin", random_start=False), threat)
    held = ~case.broken(z)

    def margin(images):
        scores = case.network(images)
        return scores.gather(1, case.y[:, None]).squeeze(1) - scores.scatter(1, case.y[:, None], -torch.inf).amax(1)

    assert (margin(z)[held] <= margin(one)[held] + 1e-5).all()


def test_the_linear_schedule_falls_by_equal_parts():
    lengths = [step.length for step in PGD(steps=4, step_size=2.0, schedule="linear").plan()]
    assert lengths == [2.0, 1.5, 1.0, 0.5]

"""A defense that rejects, judged: fooled and accepted is a success, a rejected clean image is a loss."""

import numpy as np
import pytest
import torch

from gauntlet.attacks.black_box.square import Square
from gauntlet.attacks.pgd import PGD
from gauntlet.data.dataset import Batch
from gauntlet.defenses.rejection import chosen_threshold
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.metrics.rejection import Rejection, auroc, rejection_lines
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim
from gauntlet.threat_model.watched_forward import watched
from gauntlet.verification.repredict import repeated
from gauntlet.verification.row_checks import row_problems

STAGES = ["clean", "pgd/true", "pgd/joint", "pgd/classifier"]


def predict(x, rng):
    """Class 1 where the first pixel exceeds a half."""
    first = x.flatten(1)[:, 0]
    return torch.stack([0.5 - first, first - 0.5], 1)


def accepts(x, rng):
    """The second pixel must be small, or the first one far from the edge of the classes."""
    first, second = x.flatten(1)[:, 0], x.flatten(1)[:, 1]
    return torch.maximum(0.4 - second, (first - 0.5).abs() - 0.3)


def batch():
    pixels = torch.full((6, 1, 2, 2), 0.5)
    pixels[:, 0, 0] = torch.tensor(
        [[0.45, 0.45], [0.45, 0.9], [0.1, 0.9], [0.45, 0.2], [0.55, 0.2], [0.95, 0.9]]  # first and second pixel
    )
    return Batch(torch.arange(6), pixels, torch.tensor([0, 0, 0, 0, 0, 1]))


def run(attack, **changes):
    victim = watched(Victim(predict, (), accepts=accepts))
    return Evaluation(victim, ("pgd", attack), Threat("linf", 0.1), 2, **changes)


def test_success_is_fooled_and_accepted_and_a_clean_rejection_counts_against_the_defense():
    rows = evaluate_chunk(run(PGD(steps=20, loss="margin")), batch()).rows.to_pandas()
    clean = rows[rows["stage"] == "clean"]
    # 0 and 1 are right but rejected as they are, 2 is accepted and out of reach, 3 can be fooled and stay accepted,
    # 4 is wrong as it is and accepted, 5 is accepted and cannot be brought to the other class
    assert clean["broken"].tolist() == [True, True, False, False, True, False]
    assert rows[rows["broken"] & (rows["stage"] != "clean")]["sample"].tolist() == [3]
    assert not list(row_problems(rows, range(6), STAGES, 0.1 + 1e-6))


def test_an_image_that_is_rejected_where_it_is_fooled_holds_unless_the_attacker_moves_the_detector():
    near = Batch(torch.arange(2), torch.tensor([[[[0.45, 0.35]]], [[[0.45, 0.39]]]]), torch.zeros(2, dtype=torch.long))
    away = run(PGD(steps=20, loss="margin"))
    rows = evaluate_chunk(away, near).rows.to_pandas()
    assert rows[rows["stage"] == "pgd/true"]["broken"].all()  # the joint attack sees to the second pixel
    queries = evaluate_chunk(run(Square(queries=200), access="score"), near).rows.to_pandas()
    assert queries["broken"].any()
    assert (queries[queries["broken"]]["acceptance"] >= 0).all()


def test_the_verifier_repeats_acceptance_and_sees_a_forged_one():
    evaluation, images = run(PGD(steps=20, loss="margin")), batch()
    rows = evaluate_chunk(evaluation, images).rows.to_pandas()
    clean = list(rows[rows["stage"] == "clean"].itertuples(index=False))
    again = repeated(evaluation, images.x, images.ids, images.y)
    assert not [line for n, row in enumerate(clean) for line in again.lines(n, row, 1)]
    assert "acceptance" in next(again.lines(0, clean[0]._replace(acceptance=0.3), 1))
    forged = rows.copy()
    forged.loc[forged["sample"] == 0, "broken"] = False
    assert any("acceptance -0.05" in line for line in row_problems(forged, range(6), STAGES, 0.1 + 1e-6))


@pytest.mark.parametrize("bad", [lambda x, rng: x, lambda x, rng: x.flatten(1)[:, 0] > 0])
def test_an_acceptance_that_is_no_number_for_each_image_is_refused(bad):
    victim = watched(Victim(predict, (), accepts=bad))
    with pytest.raises(UserError, match="return floating point"):
        victim.accepts(batch().x, Rng(0, batch().ids, "x"))


def test_an_acceptance_that_is_not_finite_is_an_error_and_no_robustness():
    victim = Victim(predict, (), accepts=lambda x, rng: accepts(x, rng) / (x.flatten(1)[:, 0] < 0.5))
    evaluation = Evaluation(victim, ("pgd", PGD(steps=20, loss="margin")), Threat("linf", 0.1), 2)
    with pytest.raises(UserError, match="clean image 4 is not finite"):
        evaluate_chunk(evaluation, batch())


def test_auroc_of_two_gaussians_is_its_closed_form():
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(1, 1, 20000), rng.normal(0, 1, 20000)
    assert auroc(positive, negative) == pytest.approx(0.7602, abs=0.01)  # Phi(1 / sqrt 2)
    assert auroc(np.array([1.0, 2.0]), np.array([1.0])) == 0.75
    assert np.isnan(auroc(positive, negative[:0]))


def test_risk_and_coverage_of_four_images():
    ids, right = np.arange(4), np.array([True, False, True, False])
    found = Rejection(ids, np.array([3.0, 2.0, 2.0, -1.0]), right, ids[:2], np.array([-1.0, 0.5]))
    assert found.risk_coverage() == [(0.25, 0.0), (0.75, pytest.approx(1 / 3)), (1.0, 0.5)]
    assert found.area == pytest.approx(0.5 / 3 + 0.25 * 0.5)
    assert (found.true_positives, found.true_negatives) == ((2, 2), (1, 2))
    later = Rejection(ids[:1], found.clean[:1], right[:1], ids[:1], np.array([0.25]))
    both = Rejection.among([found, later])
    assert both.fooled.tolist() == [0.25, 0.5]  # the candidate that is accepted best, over runs
    assert both.clean.tolist() == found.clean.tolist()
    assert Rejection.among([]) is None
    assert any(
        "0.00%" in line and "of 2 images whose class an attack changes" in line for line in rejection_lines(both)
    )


def test_the_threshold_accepts_the_share_that_was_asked_for():
    scores = torch.arange(100.0).flip(0)
    assert chosen_threshold(scores, 0.95) == 5
    assert chosen_threshold(scores, 1.0) == 0
    assert (scores >= chosen_threshold(scores, 0.95)).sum() == 95

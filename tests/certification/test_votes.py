"""Copies on which a network says nothing: NaN, infinity and ties certify no class."""

import numpy as np
import pytest
import torch
from torch import nn

from gauntlet.certification.band_ablation import Banded, Bands
from gauntlet.certification.certifiable import Dual, Mixed, Smoothed
from gauntlet.certification.certifier import Work
from gauntlet.certification.dual_smoothing import DualSmoothingCertifier
from gauntlet.certification.mixing import MixingCertifier
from gauntlet.certification.noise import Ablation, Gaussian, GridGaussian, Laplace, Uniform
from gauntlet.certification.patches import Patches
from gauntlet.certification.smoothing import Smoothing
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.randomized_protocol import Protocol
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim
from tests.certification.conftest import HalfSpace, certify, victim_of
from tests.evaluation.test_randomized_protocol import Down

X = torch.full((3, 1, 8, 8), 128 / 255)


class Constant(nn.Module):
    """The same scores for every image, but where no pixel has left its place: there class 0."""

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, x):
        clean = (x == X[:1]).flatten(1).all(1, keepdim=True)
        return torch.where(clean, torch.tensor([1.0, 0.0, 0.0]), self.scores.expand(len(x), 3))


def mechanisms(scores):
    network, steady = Constant(scores), HalfSpace(torch.zeros(64))
    gaussian = Gaussian(0.25)
    return {
        "smoothed": (Smoothing, Smoothed(network, gaussian), "l2"),
        "grid": (Smoothing, Smoothed(network, GridGaussian(0.25)), "l2"),
        "uniform": (Smoothing, Smoothed(network, Uniform(0.5)), "l1"),
        "laplace": (Smoothing, Smoothed(network, Laplace(0.25)), "l1"),
        "ablation": (Smoothing, Smoothed(network, Ablation(20, 8)), "l0"),
        "left": (DualSmoothingCertifier, Dual(network, steady, gaussian), "l2"),
        "right": (DualSmoothingCertifier, Dual(steady, network, gaussian), "l2"),
        "mixed": (MixingCertifier, Mixed(network, gaussian, 0.9), "l2"),
        "bands": (Patches, Banded(network, Bands()), "patch"),
    }


NAMES = list(mechanisms([0.0, 0.0, 0.0]))


def certified(name, scores):
    certifier, mechanism, norm = mechanisms(scores)[name]
    certifier = certifier() if certifier is Patches else certifier(samples=200, selection=10)
    threat, victim = Threat(norm, 1), victim_of(mechanism, 3)
    certifier.check(victim, threat)
    return certifier(victim, X, None, threat=threat, rng=Rng(0, torch.arange(3)), work=Work(64))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scores", [[np.nan] * 3, [0.0, np.nan, 0.0], [np.inf, 0.0, 0.0]], ids=["nan", "some", "inf"])
def test_votes_that_are_no_numbers_are_refused(name, scores):
    with pytest.raises(UserError, match="not finite"):
        certified(name, scores)


@pytest.mark.parametrize("name", NAMES)
def test_a_tie_certifies_nothing(name):
    found = certified(name, [0.0, 0.0, 0.0])
    assert (found.radius == 0).all()


def test_undecided_copies_are_counted_as_draws():
    class Half(nn.Module):
        def forward(self, x):
            return torch.stack([x.flatten(1)[:, 0].clamp_min(0), torch.zeros(len(x))], 1)

    x = torch.full((1, 1, 1, 1), 0.5)
    found = certify(Smoothing(samples=5000), victim_of(Smoothed(Half(), Gaussian(0.5))), x, Work())
    assert abs(int(found.counts) / 5000 - 0.8413) < 4 * np.sqrt(0.8413 * 0.1587 / 5000)
    assert found.trials.tolist() == [5000]


@pytest.mark.parametrize("rule", [Protocol("expected", 10), Protocol("vote", 5)], ids=lambda it: it.rule)
@pytest.mark.parametrize("scores", [[np.nan] * 3, [np.inf, 0.0, 0.0]], ids=["nan", "inf"])
def test_a_deployed_vote_of_no_numbers_is_refused(rule, scores):
    network, noise = Constant(scores), Gaussian(0.25)

    def predict(x, rng):  # a number for one draw in three or so
        fine = rng.stream("fine").uniform((1,)) < 0.3
        return torch.where(fine, torch.tensor([1.0, 0.0, 0.0]), network(noise(x, rng, 0)))

    run = Evaluation(
        Victim(predict, (), randomized=True), ("down", Down()), Threat("linf", 0.1), 3, coverage="all", protocol=rule
    )
    with pytest.raises(UserError, match="not finite for 3 of 3 clean images"):
        evaluate_chunk(run, Batch(torch.arange(3), X, torch.zeros(3, dtype=torch.int64)))


@pytest.mark.parametrize("rule", [None, Protocol("expected", 10), Protocol("vote", 5)])
def test_scores_that_are_all_equal_are_wrong_for_every_label(rule):
    victim = Victim(lambda x, rng: x.flatten(1)[:, :3] * 0, (), randomized=rule is not None)
    run = Evaluation(victim, ("down", Down()), Threat("linf", 0.1), 3, protocol=rule or Protocol())
    rows = evaluate_chunk(run, Batch(torch.arange(3), X, torch.arange(3))).rows.to_pandas()
    assert rows["broken"].all()
    assert (rows["pred"] != rows["label"]).all()

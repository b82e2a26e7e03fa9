"""A randomized defense that rejects: what counts is fooled and accepted, in expectation over draws."""

import numpy as np
import pytest
import torch

from gauntlet.attacks.pgd import PGD
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.randomized_protocol import Protocol
from gauntlet.metrics.randomized_result import RandomizedResult
from gauntlet.metrics.rejection import Rejection
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, Victim, plain
from gauntlet.threat_model.watched_forward import watched
from gauntlet.verification.repredict import repeated
from gauntlet.verification.row_checks import row_problems

LIMIT = 0.5
"""Draws below are accepted."""

EPS = 0.2
COINS = 100


def coin(x, rng):
    """One number in [0, 1) for each image, the same to prediction and acceptance."""
    return rng.stream("coin").uniform((1,), 0, 1, dtype=x.dtype).squeeze(1)


def predict(x, rng):
    """Class 1 where the first pixel exceeds the coin: with the probability that the pixel says."""
    gap = x.flatten(1)[:, 0] - coin(x, rng)
    return torch.stack([-gap, gap], 1)


def accepts(x, rng):
    return LIMIT - coin(x, rng)


def run(**changes):
    victim = watched(Victim(predict, (), randomized=True, draws=4, accepts=accepts))
    settings = {"protocol": Protocol(draws=COINS), "coverage": "all", **changes}
    return Evaluation(victim, ("pgd", PGD(steps=10, step_size=0.3, loss="margin")), Threat("linf", EPS), 2, **settings)


@pytest.fixture(scope="module")
def batch():
    x = torch.full((4, 1, 2, 2), 0.5)
    x[:, 0, 0, 0] = torch.tensor([0.1, 0.4, 0.6, 0.1])
    return Batch(torch.arange(4), x, torch.tensor([0, 0, 1, 1]))


@pytest.fixture(scope="module")
def rows(batch):
    return evaluate_chunk(run(), batch).rows


def against(pixels, batch, stream, *, clean):
    """The share of the draws of a stream that count against the defense, by the rule and the coins."""
    coins = torch.stack([coin(batch.x, Rng(0, batch.ids, stream).stream(k)) for k in range(COINS)])
    wrong = (coins < pixels) != (batch.y == 1)
    return ((wrong | (coins > LIMIT)) if clean else wrong & (coins <= LIMIT)).float().mean(0).numpy()


def test_shares_are_those_of_draws_that_are_wrong_and_accepted(rows, batch):
    table, pixels = rows.to_pandas(), batch.x[:, 0, 0, 0]
    clean = table[table["stage"] == "clean"].sort_values("sample")
    for column, stream in (("wrong_share", "judge"), ("fresh_share", "report")):
        np.testing.assert_allclose(clean[column], against(pixels, batch, stream, clean=True), atol=1e-6)
    attacked = table[table["stage"] == "pgd/true"].sort_values("sample")
    farthest = torch.where(batch.y == 1, pixels - EPS, pixels + EPS).clamp(0, 1)
    most = against(farthest, batch, "report", clean=False)
    assert (attacked["fresh_share"] <= most + 1e-6).all()
    assert (attacked["fresh_share"] >= 0.7 * most).all()
    loss = np.maximum(clean["wrong_share"].to_numpy(), attacked["wrong_share"].to_numpy())
    assert (loss == clean["wrong_share"]).all()  # half of the draws reject: that is the worst of these images
    assert RandomizedResult.of(rows).accuracy().mean == pytest.approx(1 - clean["fresh_share"].mean(), abs=1e-6)
    assert Rejection.of(rows) is not None


def test_the_verifier_says_the_same_and_the_rows_are_consistent(rows, batch):
    table = rows.to_pandas()
    stages = ["clean", *(stage.name for stage in run().stages)]
    assert not list(row_problems(table, range(4), stages, EPS + 1e-6, "all"))
    again = repeated(run(), batch.x, batch.ids, batch.y, clean=True)
    for place, row in enumerate(table[table["stage"] == "clean"].itertuples()):
        assert (again.pred[place], list(again.lines(place, row, COINS))) == (row.pred, [])
        changed = row._replace(acceptance=row.acceptance + 0.1)
        assert any("the acceptance is" in line for line in again.lines(place, changed, COINS))


def test_one_frozen_draw_is_a_deterministic_defense_that_rejects(batch):
    fixed = Protocol("fixed", 1)
    victim = fixed.applied(run().victim, 0)
    assert not victim.randomized
    said, told = (call(batch.x, Rng(5, batch.ids, "any")) for call in (victim.predict, victim.accepts))
    frozen = Rng(0, batch.ids, "frozen")
    assert torch.equal(said, predict(batch.x, frozen))
    assert torch.equal(told, accepts(batch.x, frozen))


def test_what_has_no_meaning_is_refused():
    with pytest.raises(UserError, match="protocol=vote is not defined"):
        run(protocol=Protocol("vote", 10))
    members = (Head("a", plain(torch.nn.Identity()), weight=1.0),)
    with pytest.raises(UserError, match="a mixture cannot reject"):
        Victim(predict, (), members, randomized=True, accepts=accepts)

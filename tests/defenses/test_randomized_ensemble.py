"""Randomized ensembles: what is drawn, the exact expectation, and what its records say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.randomized_ensemble.arc import ARC
from gauntlet.attacks.suite import Suite
from gauntlet.data.dataset import Batch
from gauntlet.defenses.barre import BARRE
from gauntlet.defenses.randomized_ensemble import RandomizedEnsemble, expected_softmax
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.randomized_protocol import Protocol
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import FOOLED, RANDOM_SCHEMA
from gauntlet.metrics.attack_summary import summarize
from gauntlet.metrics.ensemble_bounds import at, bound_lines, least, risks
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.verification.repredict import repeated
from gauntlet.verification.row_checks import row_problems

PARTS = {"a": None, "b": None, "c": None}
CHANCES = [0.5, 0.3, 0.2]


class Linear(nn.Module):
    """Logits of a random linear map of the pixels, which all maps have in part."""

    def __init__(self, seed, classes=5, size=12):
        super().__init__()
        same, own = (torch.randn(classes, size, generator=torch.Generator().manual_seed(s)) for s in (100, seed))
        self.weight = nn.Parameter(4 * (same + 0.7 * own), requires_grad=False)

    def forward(self, x):
        return (x - 0.5).flatten(1) @ self.weight.T


MODELS = {name: Linear(number) for number, name in enumerate(PARTS)}


def deployed(chances=CHANCES, models=MODELS):
    return RandomizedEnsemble(parts=PARTS, members=list(PARTS), probabilities=chances).deploy(models)


@pytest.fixture
def batch():
    ids = torch.arange(60)
    x = Rng(0, ids, "images").uniform((1, 3, 4))
    return Batch(ids, x, MODELS["a"](x).argmax(1))


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"members": []}, "nothing to draw"),
        ({"members": ["a"]}, "give two or more"),
        ({"members": ["a", "d"]}, "d, which is no part"),
        ({"members": ["a", "b", "a"]}, "a twice"),
        ({"probabilities": [0.5, 0.5]}, "2 numbers for 3 members"),
        ({"probabilities": [0.5, 0.4, 0.2]}, "sum to 1.1"),
        ({"probabilities": [0.9, 0.2, -0.1]}, "negative"),
        ({"probabilities": [0.5, 0.5, float("nan")]}, "negative"),
        ({"draws": 0}, "a gradient needs a draw"),
    ],
)
@pytest.mark.parametrize("defense", [RandomizedEnsemble, BARRE])
def test_bad_knobs(defense, knobs, told):
    with pytest.raises(UserError, match=told):
        defense(parts=PARTS, **({"members": list(PARTS)} | knobs))


def test_members_of_different_numbers_of_classes_are_refused(batch):
    models = MODELS | {"b": Linear(1, classes=7)}
    with pytest.raises(UserError, match="different numbers of classes"):
        deployed(models=models).predict(batch.x, Rng(0, batch.ids))
    run = Evaluation(deployed(models=models), ("pgd", PGD(steps=1)), Threat("linf", 0.1), 5, coverage="all")
    with pytest.raises(UserError, match="a 5, member_b 7"):
        evaluate_chunk(run, batch)


def test_members_that_take_other_images_are_refused(batch):
    run = Evaluation(deployed(models=MODELS | {"b": Linear(1, size=9)}), ("pgd", PGD()), Threat("linf", 0.1), 5)
    with pytest.raises(UserError, match="cannot predict clean images"):
        evaluate_chunk(run, batch)


def test_a_member_is_drawn_with_its_probability():
    ids = torch.arange(20_000)
    x = Rng(0, ids[:1], "image").uniform((1, 3, 4)).expand(len(ids), 1, 3, 4)
    scores = deployed().predict(x, Rng(3, ids))
    each = torch.stack([model(x[:1])[0] for model in MODELS.values()])
    drawn = torch.cdist(scores, each).argmin(1)
    torch.testing.assert_close(scores, each[drawn])
    found = torch.bincount(drawn, minlength=3) / len(ids)
    error = (torch.tensor(CHANCES) * (1 - torch.tensor(CHANCES)) / len(ids)).sqrt()
    assert ((found - torch.tensor(CHANCES)).abs() < 3 * error).all()


def test_the_exact_expectation_is_the_mean_over_many_draws(batch):
    victim, count = deployed(), 100_000
    run = Evaluation(victim, ("arc", ARC(steps=2)), Threat("linf", 0.1), 5, coverage="all")
    rows = evaluate_chunk(run, batch).rows.to_pandas()
    at_random = int(rows[rows["wrong_share"].between(0.1, 0.9)]["sample"].iloc[0])
    share = rows[(rows["sample"] == at_random) & (rows["stage"] == "clean")]["wrong_share"].item()
    ids = torch.arange(count)
    pred = victim.predict(batch.x[at_random].expand(count, 1, 3, 4), Rng(1, ids)).argmax(1)
    wrong = (pred != batch.y[at_random]).double().mean()
    assert abs(wrong - share) <= 3 * (share * (1 - share) / count) ** 0.5 + 1e-6


def test_records_hold_the_exact_share_and_the_members_that_are_wrong(batch, tmp_path):
    victim, threat = deployed(), Threat("linf", 0.1)
    suite = Suite({"arc": ARC(steps=4), "pgd": PGD(steps=5)})
    run = Evaluation(victim, ("suite", suite), threat, 5, coverage="all")
    done = evaluate_chunk(run, batch)
    folder = RunFolder(tmp_path)
    folder.write_part(0, done.rows, done.seconds)
    table = folder.read_part(0)
    assert table.column_names == [*RANDOM_SCHEMA.names, FOOLED.name]
    rows, stages = table.to_pandas(), ["clean", *(stage.name for stage in run.stages)]
    assert [stage.rpartition("/")[2] for stage in stages[1:]] == [
        "members", "true", "expected_softmax", "member_a", "member_b", "member_c",
    ]  # fmt: skip
    assert not list(row_problems(rows, batch.ids.tolist(), stages, 0.1 * (1 + 1e-6) + 1e-7, "all"))
    shares = sum(chance * (rows["fooled"] // 2**bit % 2) for bit, chance in enumerate(CHANCES))
    assert rows["wrong_share"].to_numpy() == pytest.approx(shares.to_numpy(), abs=1e-6)
    assert (rows["wrong_share"] == rows["fresh_share"]).all()
    assert (rows["broken"] == (shares > 0.5 + 1e-9)).all()
    total = summarize(folder, stages)
    worst = rows.groupby("sample")["wrong_share"].max()
    assert total.expected.mean == pytest.approx(1 - worst.mean())
    clean = rows[rows["stage"] == "clean"]
    assert total.expected_clean.mean == pytest.approx(1 - clean["wrong_share"].mean())
    united = rows.groupby("sample")["fooled"].agg(np.bitwise_or.reduce).tolist()
    assert total.randomized.all.fooled.tolist() == united
    # What the members are worth alone bounds what the mixture is worth, whatever the candidates are.
    found = risks(united, 3)
    low, high = at(found, CHANCES)
    assert low - 1e-9 <= worst.mean() <= high + 1e-9
    told = bound_lines(united, {"members": [[head.name, head.weight] for head in victim.members]})
    assert f"{1 - least(found)[1]:.2%} to {1 - least(found)[0]:.2%} with the best ones" in told[1]


def test_the_verifier_repeats_the_exact_shares(batch):
    run = Evaluation(deployed(), ("arc", ARC(steps=2)), Threat("linf", 0.1), 5, coverage="all")
    rows = [row for row in evaluate_chunk(run, batch).rows.to_pandas().itertuples() if row.stage == "clean"]
    again = repeated(run, batch.x, batch.ids, batch.y)
    assert again.pred == [row.pred for row in rows]
    assert not [line for n, row in enumerate(rows) for line in again.lines(n, row, 100)]
    false = rows[0]._replace(wrong_share=rows[0].wrong_share + 0.01)
    assert next(again.lines(0, false, 100)).startswith("wrong_share is")


def test_one_sure_member_is_that_network(batch):
    sure, threat = deployed([0.0, 1.0, 0.0]), Threat("linf", 0.1)
    assert [head.name for head in sure.members] == ["member_b"]
    assert torch.equal(sure.predict(batch.x, Rng(0, batch.ids)), MODELS["b"](batch.x))
    head = sure.surrogates[0].forward(batch.x, Rng(0, batch.ids))
    torch.testing.assert_close(head, MODELS["b"](batch.x).log_softmax(1))
    run = Evaluation(sure, ("arc", ARC(steps=4)), threat, 5, coverage="all")
    assert set(evaluate_chunk(run, batch).rows.to_pandas()["wrong_share"]) <= {0.0, 1.0}


def test_a_find_must_fool_all_members(batch):
    victim, threat = deployed(), Threat("linf", 0.12)
    rows = evaluate_chunk(Evaluation(victim, ("pgd", PGD(steps=10)), threat, 5, coverage="all"), batch).rows.to_pandas()
    last = rows[rows["stage"] == "pgd/expected_softmax"]
    early = last[last["forwards"] < 11]
    assert len(early)  # an attack leaves a sample when nothing is left to gain
    assert (early["wrong_share"] > 1 - 1e-6).all()


def test_other_protocols_draw(batch):
    for protocol in (Protocol("vote", 11), Protocol("fixed", 1)):
        victim = protocol.applied(deployed(), 0)
        run = Evaluation(victim, ("arc", ARC(steps=2)), Threat("linf", 0.1), 5, coverage="all", protocol=protocol)
        assert not run.exact
        assert [stage.name for stage in run.stages] == (
            ["arc/members"] if victim.randomized else [f"arc/{head.name}" for head in victim.heads]
        )
        assert FOOLED.name not in evaluate_chunk(run, batch).rows.column_names
    assert Protocol().to_record(exact=True) == {"rule": "expected", "draws": 0}


def test_the_expected_softmax_is_the_mean_of_the_probabilities():
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = (torch.tensor(CHANCES, dtype=torch.float64)[:, None, None] * logits.softmax(2)).sum(0)
    torch.testing.assert_close(expected_softmax(logits, torch.tensor(CHANCES).double()).exp(), mean)


def test_what_members_were_trained_with_is_loaded_too():
    class Using:
        uses = ("a",)

    defense = RandomizedEnsemble(parts={**PARTS, "c": Using()}, members=["b", "c"])
    assert list(defense.parts) == ["a", "b", "c"]
    assert replace(defense, members=["a", "b"]).chances == [0.5, 0.5]
    assert list(RandomizedEnsemble(parts=PARTS, members=["a", "b"]).parts) == ["a", "b"]

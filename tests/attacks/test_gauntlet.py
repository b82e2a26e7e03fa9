"""The screen, the gap, the further attempts, and the doubts about gradients."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gauntlet.attacks.gauntlet import PROBABILITY, TRUE, Gauntlet
from gauntlet.attacks.gauntlet_state import GauntletState
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.attack import revisions_of
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.decision import misclassified
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.targeted import targeting
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

EPS = 0.1
THREAT = Threat("linf", EPS)


class Line(nn.Module):
    """Two classes: 0 to 32 pixels of weight one against a constant."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1, keepdim=True)
        return torch.cat([total, total.new_full(total.shape, 8.0)], 1)


class Rounded(nn.Module):
    """Pixels rounded to twentieths: no gradient at all."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x * 20).round() / 20)
        return logits


def grey(levels: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, images of 4x4 equal pixels, labels of `Line`."""
    x = torch.tensor(levels)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    return torch.arange(len(levels)), x, torch.zeros(len(levels), dtype=torch.long)


def door(network: nn.Module, ids: Tensor) -> CountedHead:
    victim = Victim(plain(network), (network,))
    return CountedHead(victim.heads[0], victim.predict, Counts.of(ids))


def test_the_gap_of_a_linear_model_is_the_perturbation_that_is_missing():
    ids, x, y = grey([0.61, 0.65, 0.7, 0.85])
    state = GauntletState(door(Line(), ids), x, y, THREAT, Rng(0, ids, "g"))
    state.best.note(torch.arange(4), x - EPS, 16 * (x[:, 0, 0, 0] - EPS) - 8, torch.zeros(4, dtype=torch.bool))
    assert torch.allclose(state.gaps(), torch.tensor([0.1, 0.5, 1.0, 2.5]), atol=1e-4)
    assert torch.allclose(state.linearity_error(torch.arange(4)), torch.zeros(4, dtype=torch.double), atol=1e-3)


def test_logits_of_reduced_precision_raise_no_doubt():
    """A linear model: its margins change by 0.2 on the way, and bfloat16 rounds its logits of 110 by up to 0.25."""
    network = nn.Linear(16, 2)
    with torch.no_grad():
        network.weight.copy_(torch.stack([torch.full((16,), 1.0), torch.full((16,), 0.5)]))
        network.bias.copy_(torch.tensor([100.0, 100.0]))
    network = nn.Sequential(nn.Flatten(), network).requires_grad_(False)
    ids, x = torch.arange(40), torch.linspace(0.5, 0.9, 40)[:, None, None, None].expand(40, 1, 4, 4)
    head = replace(door(network, ids), dtype=torch.bfloat16)
    assert head.pulled(x, torch.ones_like, Rng(0, ids, "g"))[0].ne(network(x)).any()
    state = GauntletState(head, x, torch.zeros_like(ids), THREAT, Rng(0, ids, "g"))
    state.best.note(ids, x - EPS, network(x - EPS).diff().squeeze(1).neg(), torch.zeros(40, dtype=torch.bool))
    assert (state.linearity_error(ids) < 0.01).all()


def test_a_linear_model_falls_exactly_where_it_can():
    ids, x, y = grey([0.55, 0.599, 0.601, 0.7])
    z = Gauntlet()(door(Line(), ids), x, y, threat=THREAT, rng=Rng(0, ids, "g"))
    assert (Line()(z).argmax(1) != y).tolist() == [True, True, False, False]


def test_a_hopeless_sample_costs_the_screen_and_two_looks():
    ids, x, y = grey([0.95])
    head = door(Line(), ids)
    Gauntlet()(head, x, y, threat=THREAT, rng=Rng(0, ids, "g"))
    # clean 1; screen 20 and its end 1; linearity 1 and 1; probe 20 and its end 1
    assert head.counts.forwards.tolist() == [45]
    assert head.counts.backwards.tolist() == [21]
    assert head.counts.phases[head.counts.phase] == "probe"


def test_where_gradients_are_doubted_all_are_tried_once_and_the_close_again():
    """The gradient of `Rounded` is zero: it takes a random start's share of the margin, and the gap is wide."""
    ids, x, y = grey([0.95])
    head = door(Rounded(Line()), ids)
    Gauntlet(trial=0)(head, x, y, threat=THREAT, rng=Rng(0, ids, "g"))
    assert head.counts.backwards.tolist() == [20 + 1 + 30]


def test_only_close_samples_are_tried_again():
    ids, x, y = grey([0.605, 0.612, 0.85])  # gaps of 0.05, 0.12 and 2.5
    turn = 1 + 5 + 1 + 31  # the ranking comes first
    counts = []
    for rounds in (0, 2):
        head = door(Line(), ids)
        Gauntlet(rounds=rounds, trial=0)(head, x, y, threat=THREAT, rng=Rng(0, ids, "g"))
        counts.append(head.counts.forwards)
    assert (counts[1] - counts[0]).tolist() == [31 + turn, 0, 0]


def test_the_bound_falls_and_is_narrow_where_runs_went_through_a_relaxed_ball():
    doubted = torch.tensor([True, False])
    found = torch.stack([Gauntlet(gap=0.6).bounds(number, THREAT, doubted) for number in (0, 2, 4)])
    assert found.isclose(torch.tensor([[torch.inf, 0.12], [0.3, 0.06], [0.2, 0.04]])).all()
    targeted = replace(THREAT, goal="targeted")
    assert Gauntlet(gap=0.6).bounds(2, targeted, doubted).isclose(torch.tensor([0.3, 0.3])).all()


def test_gradients_that_lie_are_doubted_and_queries_take_over():
    ids, x, y = grey([0.56, 0.64, 0.95])
    network = Rounded(Line())
    head = door(network, ids)
    z = Gauntlet()(head, x, y, threat=THREAT, rng=Rng(0, ids, "g"))
    assert misclassified(network(z), y).tolist() == [True, False, False]
    assert [head.counts.phases[place] for place in head.counts.phase] == ["trial"] * 3
    # At least 0.8 / 2.4 of the second margin and 5.6 / 7.2 of the third stand: more than 0.33 after 500 queries, and
    # more than 0.75 after 50.
    assert head.counts.forwards.diff().tolist()[1] == -(500 - 50)


def test_records_name_the_part_that_broke_a_sample():
    ids, x, y = grey([0.3, 0.55, 0.95])
    run = Evaluation(Victim(plain(Line()), ()), ("gauntlet", Gauntlet()), THREAT, 2)
    rows = evaluate_chunk(run, Batch(ids, x, y)).rows.to_pandas()
    assert rows.set_index(["sample", "stage"])["phase"].dropna().to_dict() == {
        (1, "gauntlet/true"): "screen",
        (2, "gauntlet/true"): "probe",
    }


def test_more_rounds_break_no_less(case):
    attacks = [Gauntlet(steps=3, round_steps=4, rounds=n, queries=0) for n in (0, 4, 12)]
    found = [case.broken(case.attack(attack, THREAT)[0]) for attack in attacks]
    assert (found[0] <= found[1]).all()
    assert (found[1] <= found[2]).all()


@pytest.mark.parametrize("knob", [{"steps": 0}, {"rounds": -1}, {"gap": -0.1}, {"mismatch": 0.0}, {"queries": -1}])
def test_knobs_out_of_range_are_refused(knob):
    with pytest.raises(UserError, match=rf"attack\.{next(iter(knob))}="):
        Gauntlet(**knob)


def test_a_targeted_screen_ascends_cross_entropy_alone_and_says_so(case, monkeypatch):
    screens, run = [], GauntletState.run

    def noted(self, phase, index, plan, *others, **knobs):
        screens.append({step.loss for step in plan})
        return run(self, phase, index, plan, *others, **knobs)

    monkeypatch.setattr(GauntletState, "run", noted)
    attack, target = Gauntlet(rounds=0, probe=0), (case.y + 1) % 5
    threats = Threat("linf", 0.15), Threat("linf", 0.15, goal="targeted")
    for threat in threats:
        head = CountedHead(case.victim.heads[0], case.victim.predict, Counts.of(case.ids))
        head = targeting(head, case.y, target) if threat.targeted else head
        attack(head, case.x, case.y, threat=threat, rng=Rng(0, case.ids, "attack"))
    assert screens == [{TRUE, PROBABILITY}, {TRUE}]
    assert [revisions_of(attack, threat) for threat in threats] == [{"attack": 4}, {"attack": 5}]

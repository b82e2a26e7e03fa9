"""The screen, the gap, the further attempts, and the doubts about gradients."""

import pytest
import torch
from torch import Tensor, nn

from gauntlet.attacks.gauntlet import Gauntlet, GauntletState
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.counted_head import CountedHead, Counts
from gauntlet.threat_model.rng import Rng
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


def test_a_linear_model_falls_exactly_where_it_can():
    ids, x, y = grey([0.55, 0.599, 0.601, 0.7])
    z = Gauntlet()(door(Line(), ids), x, y, threat=THREAT, rng=Rng(0, ids, "g"))
    assert (Line()(z).argmax(1) != y).tolist() == [True, True, False, False]


def test_a_hopeless_sample_costs_two_runs_and_two_looks():
    ids, x, y = grey([0.95])
    head = door(Line(), ids)
    Gauntlet()(head, x, y, threat=THREAT, rng=Rng(0, ids, "g"))
    # clean 1; screen 20 and its end 1; attempt 30 and its end 1; linearity 1 and 1; probe 20 and its end 1
    assert head.counts.forwards.tolist() == [76]
    assert head.counts.backwards.tolist() == [51]
    assert head.counts.phases[head.counts.phase] == "probe"


def test_only_close_samples_are_tried_again():
    ids, x, y = grey([0.61, 0.85])  # gaps of 0.1 and 2.5
    head = door(Line(), ids)
    Gauntlet(rounds=2, trial=0)(head, x, y, threat=THREAT, rng=Rng(0, ids, "g"))
    turn = 1 + 5 + 1 + 31  # the ranking comes first
    assert head.counts.forwards.tolist() == [76 + turn, 76]


def test_a_trial_goes_where_the_probe_took_much():
    ids, x, y = grey([0.61, 0.85])  # both gradients are right
    head = door(Line(), ids)
    Gauntlet(rounds=0, trial=50)(head, x, y, threat=THREAT, rng=Rng(0, ids, "g"))
    assert (head.counts.forwards - (76 - 31)).tolist() == [51, 0]  # little is left of the first, and much of the second


def test_the_bound_falls():
    attack = Gauntlet(gap=0.6)
    assert [attack.bound(number) for number in (0, 2, 4)] == pytest.approx([torch.inf, 0.3, 0.2])


def test_gradients_that_lie_are_doubted_and_queries_take_over():
    ids, x, y = grey([0.56, 0.64, 0.95])
    network = Rounded(Line())
    head = door(network, ids)
    z = Gauntlet(trial=100, queries=400)(head, x, y, threat=THREAT, rng=Rng(0, ids, "g"))
    broken = network(z).argmax(1) != y
    assert broken.tolist() == [True, False, False]
    assert [head.counts.phases[place] for place in head.counts.phase] == ["probe", "square", "trial"]
    assert head.counts.forwards.diff().tolist()[1] == -401  # the last one is hopeless


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

import pytest
import torch

from attacks.square import Square, _pyramid, _split_pyramid
from harness.errors import UserError
from harness.rng import Rng
from harness.threat import Threat


def test_the_sides_shrink_on_schedule():
    square = Square(share=0.8)
    sides = {query: square.side(query, 32, 32) for query in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)}
    assert sides == {0: 29, 10: 29, 11: 20, 51: 14, 201: 10, 501: 7, 1001: 5, 2001: 4, 4001: 3, 6001: 2, 8001: 1}


def test_each_query_is_one_forward_and_no_backward(case):
    _, counts = case.attack(Square(queries=123), Threat("linf", 1e-6))
    assert counts.forwards.tolist() == [123] * len(case.ids)
    assert counts.backwards.tolist() == [0] * len(case.ids)


def test_linf_candidates_sit_at_the_ends_of_the_ball(case):
    threat = Threat("linf", 0.01)
    case.x = case.x.clamp(0.02, 0.98)
    case.y = case.network(case.x).argmax(1)
    z, _ = case.attack(Square(queries=40), threat)
    assert ((z - case.x).abs() - 0.01).abs().max() < 1e-6


def test_l2_candidates_spend_the_budget(case):
    case.x = case.x.clamp(0.3, 0.7)
    case.y = case.network(case.x).argmax(1)
    threat = Threat("l2", 0.05)
    z, _ = case.attack(Square(queries=40), threat)
    assert threat.distance(z, case.x).numpy() == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize("side", [3, 5, 7])
def test_bumps_have_length_one_and_fall_from_their_middle(side):
    x = torch.zeros(4, 1, 9, 9)
    bump = _pyramid(side, side, x)
    assert bump.norm().item() == pytest.approx(1)
    assert bump.argmax().item() == side * side // 2
    split = _split_pyramid(side, Rng(0, torch.arange(4)), x)
    assert split.flatten(1).norm(dim=1).tolist() == pytest.approx([1] * 4)
    assert split.min() < 0 < split.max()


@pytest.mark.parametrize("knobs", [{"queries": 0}, {"share": 0.0}, {"share": 1.5}])
def test_bad_knobs(knobs):
    with pytest.raises(UserError):
        Square(**knobs)


def test_more_queries_only_add(case):
    threat = Threat("linf", 0.08)
    few = case.broken(case.attack(Square(queries=20), threat)[0])
    many = case.broken(case.attack(Square(queries=200), threat)[0])
    assert (many | ~few).all()
    assert many.sum() > few.sum()

import pytest
import torch

from gauntlet.attacks.black_box.square import Square, Window, _bump, _pyramid, begin, propose
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


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


def test_l1_candidates_spend_the_budget(case):
    case.x = case.x.clamp(0.3, 0.7)
    case.y = case.network(case.x).argmax(1)
    threat = Threat("l1", 0.05)
    z, _ = case.attack(Square(queries=40), threat)
    assert threat.distance(z, case.x).numpy() == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_bumps_have_length_one_and_fall_from_their_middle(norm, side):
    x, order = torch.zeros(4, 1, 9, 9), int(norm[1])
    bump = _pyramid(side, side, norm, x)
    assert bump.flatten().norm(order).item() == pytest.approx(1)
    assert bump.argmax().item() == side * side // 2
    both = _bump(side, torch.tensor([0, 2**31]), norm, x)
    assert both.flatten(1).norm(order, dim=1).tolist() == pytest.approx([1, 1])
    assert torch.equal(both[0], both[1].T)
    assert both[0].min() < 0


def test_the_profile_of_a_bump():
    """The ring at distance r from the middle holds 1 / (r + 1)^2 + ... + 1 / (n + 1)^2."""
    row = _pyramid(5, 5, "l2", torch.zeros(1, dtype=torch.float64))[2]
    assert (row / row[2]).tolist() == pytest.approx([(1 / 9) / (49 / 36), (13 / 36) / (49 / 36), 1, 13 / 49, 4 / 49])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_proposal_changes_two_squares_at_most(norm):
    ids = torch.arange(6)
    x = Rng(0, ids, "x").uniform((3, 12, 12), 0.3, 0.7)
    threat = Threat(norm, 0.1)
    z = begin(x, threat, Rng(0, ids, "start"))
    words = Rng(0, ids, "words").bits((8,))
    changed = (propose(z, x, threat, 3, words) != z).any(1)
    limit = 9 if norm == "linf" else 18
    assert (changed.flatten(1).sum(1) <= limit).all()
    windows = [Window.place(words[:, at : at + 2], 3, 12, 12) for at in (0, 2)]
    allowed = torch.zeros(6, 144, dtype=torch.bool)
    for window in windows[: 1 if norm == "linf" else 2]:
        allowed.scatter_(1, window.where, True)
    assert not (changed.flatten(1) & ~allowed).any()


def test_windows_reach_every_corner():
    corners = torch.tensor([[0, 0], [2**32 - 1, 2**32 - 1]])
    window = Window.place(corners, 2, 5, 7)
    assert window.where.tolist() == [[0, 1, 7, 8], [26, 27, 33, 34]]
    other = Window.place(torch.tensor([[0, 2**31], [0, 0]]), 2, 5, 7)  # at (0, 3) and (0, 0)
    assert window.outside(other, 7).all()
    assert not window.outside(window, 7).any()


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

import torch

from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head

IDS = torch.tensor([2, 3, 5, 7, 11])


def test_passes_are_booked_where_the_ids_stand_step_after_step():
    counts, some = Counts.of(IDS), IDS[[1, 3]]
    counts.add("forwards", IDS)
    counts.add("forwards", some)
    counts.add("forwards", some, 2)
    counts.add("forwards", IDS[[0, 3]], torch.tensor([10, 20]))
    counts.add("forwards", some)
    assert counts.forwards.tolist() == [11, 5, 1, 25, 1]
    counts.enter("first", some)
    assert counts.phase.tolist() == [-1, 0, -1, 0, -1]


def test_gradients_that_are_nothing_or_not_finite_are_booked_and_the_latter_are_zero():
    slope = torch.tensor([1.0, 0.0, torch.nan, -torch.inf, -2.0])
    head = Head("true", lambda x, rng: x.flatten(1) * slope[torch.searchsorted(IDS, rng.ids)][:, None], exact=True)
    for rows in ([0, 1, 2, 3, 4], [1, 2, 4], [3, 4], [0, 4]):
        counts, z = Counts.of(IDS), torch.full((len(rows), 1, 1, 2), 0.5)
        door = CountedHead(head, head.forward, counts)
        _, gradient = door.gradient(z, torch.ones_like, Rng(0, IDS[rows]))
        wanted = slope[rows].nan_to_num(0.0, 0.0, 0.0)
        assert torch.equal(gradient, wanted[:, None, None, None].expand_as(z))
        assert counts.zero_gradients.tolist() == [int(i == 1 and 1 in rows) for i in range(5)]
        assert counts.bad_gradients.tolist() == [int(i in (2, 3) and i in rows) for i in range(5)]
        assert counts.backwards.tolist() == [int(i in rows) for i in range(5)]


def test_a_gradient_whose_entries_cancel_is_not_nothing():
    slope = torch.tensor([[1.0, -1.0], [3e38, 3e38]])  # the sum of the second leaves float32
    head = Head("true", lambda x, rng: x.flatten(1) * slope, exact=True)
    counts = Counts.of(IDS[:2])
    door = CountedHead(head, head.forward, counts)
    _, gradient = door.gradient(torch.full((2, 1, 1, 2), 0.5), torch.ones_like, Rng(0, IDS[:2]))
    assert torch.equal(gradient.flatten(1), slope)
    assert counts.zero_gradients.tolist() == counts.bad_gradients.tolist() == [0, 0]


class Once(torch.autograd.Function):
    """Three times the input, whose gradient cannot be asked for twice, as that of a network that was compiled."""

    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, gradient):
        if torch._C._autograd._get_current_graph_task_keep_graph():
            raise RuntimeError("This backward function was compiled with non-empty donated buffers")
        return 3 * gradient


def test_a_graph_that_answers_once_is_made_anew_for_each_cotangent():
    pulled, counts = [], []
    for function in (lambda x: 3 * x, Once.apply):
        head = Head("true", lambda x, rng, function=function: function(x.flatten(1)), exact=True)
        counts.append(Counts.of(IDS))
        _, pull = CountedHead(head, head.forward, counts[-1]).linearize(torch.ones(5, 1, 1, 2), Rng(0, IDS))
        pulled.append([pull(torch.full((5, 2), float(k))) for k in (1, 2)])
    assert all(torch.equal(mine, other) for mine, other in zip(*pulled, strict=True))
    assert counts[0].forwards.tolist() == [1] * 5
    assert counts[1].forwards.tolist() == [3] * 5
    assert all(count.backwards.tolist() == [2] * 5 for count in counts)

"""What the loop keeps of each sample."""

import torch

from gauntlet.attacks.projected_ascent import BestCandidates


def test_the_best_of_everyone_is_kept_as_the_best_of_some():
    """Entered at once, or one sample after the other."""
    torch.manual_seed(0)
    x = torch.rand(4, 1, 2, 2)
    once, singly = BestCandidates.start(x), BestCandidates.start(x)
    margins = torch.tensor([[3.0, 3, 3, 3], [2, 2, 2, 2], [1, 5, -1, 2], [0.5, 1, 1, 1]])
    for margin in margins:
        z, broken = torch.rand_like(x), margin < 0
        once.note(torch.arange(4), z, margin, broken)
        for i in range(4):
            singly.note(torch.tensor([i]), z[i : i + 1], margin[i : i + 1], broken[i : i + 1])
    for mine, other in zip(once, singly, strict=True):
        assert torch.equal(mine, other)
    assert once.broken.tolist() == [False, False, True, False]
    assert once.margin.tolist() == [0.5, 1, -1, 1]

"""The transfer engine: closed forms, pieces that do nothing, and the price of a step."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import InterpolationMode, rotate

from gauntlet.attacks.log_scaled_gradient import LogScaledGradient, cross_entropy, log_scaled_loss, weighted_sum
from gauntlet.attacks.transfer.admix import Admix
from gauntlet.attacks.transfer.bsr import ShuffledRotations
from gauntlet.attacks.transfer.context import AttackContext
from gauntlet.attacks.transfer.gradient_smoothing import Flatness, Kernel, Variance
from gauntlet.attacks.transfer.input_diversity import Diversity
from gauntlet.attacks.transfer.input_transforms import Scales, TransformGrid
from gauntlet.attacks.transfer.momentum_ascent import Transfer
from gauntlet.attacks.transfer.sia import BlockTransforms
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.jobs.attack_setup import stocked
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, plain
from gauntlet.transfer.surrogates import SurrogateHead

LINF = Threat("linf", 0.15)


def on_surrogate(attack, case, threat=LINF, dtype=None):
    """Candidates and counts where nothing ever counts as broken."""
    counts = Counts.of(case.ids)
    head = SurrogateHead(Head("s", plain(case.network)), plain(case.network), counts, dtype=dtype)
    z = attack(head, case.x, case.y, threat=threat, rng=Rng(0, case.ids, "attack"))
    return z, counts


def scene_of(x, y=None, threat=LINF):
    return AttackContext(
        x, torch.zeros(len(x), dtype=torch.long) if y is None else y, threat, log_scaled_loss("ce"), 0.1
    )


def shown(piece, x, seed=0):
    """What a piece makes of the images."""
    view = piece.draw(0, scene_of(x), Rng(seed, torch.arange(len(x)), "v")).view
    return x if view is None else view(x)


def test_momentum_is_as_written(make_case):
    case = make_case(dtype=torch.float64)
    z, momentum = case.x, torch.zeros_like(case.x)
    for _ in range(10):
        leaf = z.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(case.network(leaf), case.y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        momentum = momentum + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        z = (z + 0.015 * momentum.sign()).clamp(case.x - 0.15, case.x + 0.15).clamp(0, 1)
    assert torch.allclose(on_surrogate(Transfer(), case)[0], z, atol=1e-12)


@pytest.mark.parametrize("targets", [1, 3])
def test_a_targeted_run_climbs_the_probability_of_its_target(make_case, targets):
    """As written out for each target; of several end points that of least margin is handed on."""
    case = make_case(dtype=torch.float64)
    order = case.network(case.x).scatter(1, case.y[:, None], -torch.inf).argsort(1, descending=True)
    ends, margins = [], []
    for target in order.T[:targets]:
        z, momentum = case.x, torch.zeros_like(case.x)
        for _ in range(10):
            leaf = z.clone().requires_grad_()
            aim = -torch.nn.functional.cross_entropy(case.network(leaf), target, reduction="sum")
            (gradient,) = torch.autograd.grad(aim, leaf)
            momentum = momentum + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
            z = (z + 0.015 * momentum.sign()).clamp(case.x - 0.15, case.x + 0.15).clamp(0, 1)
        logits = case.network(z)
        rival = logits.scatter(1, case.y[:, None], -torch.inf).amax(1)
        ends.append(z)
        margins.append(logits.gather(1, case.y[:, None]).squeeze(1) - rival)
    best = torch.stack(margins).argmin(0)
    z, counts = on_surrogate(Transfer(targets=targets), case)
    assert torch.allclose(z, torch.stack(ends)[best, torch.arange(len(best))], atol=1e-12)
    assert set(counts.forwards.tolist()) == {1 + 10 * targets + (targets if targets > 1 else 0)}


NOTHING = {
    "di with probability 0": Transfer(views={"di": Diversity(probability=0)}),
    "ti with a delta kernel": Transfer(kernel=Kernel(size=1)),
    "si with one copy": Transfer(views={"si": Scales(copies=1)}),
    "admix without strength, one scale": Transfer(views={"a": Admix(strength=0, copies=1), "si": Scales(copies=1)}),
}


@pytest.mark.parametrize("threat", [LINF, Threat("l2", 0.6), Threat("l1", 2.0)], ids=lambda t: t.norm)
@pytest.mark.parametrize("name", NOTHING)
def test_pieces_that_do_nothing_change_no_bit(name, threat, case):
    mi, counts = on_surrogate(Transfer(), case, threat)
    z, same = on_surrogate(NOTHING[name], case, threat)
    assert torch.equal(z, mi)
    assert torch.equal(same.backwards, counts.backwards)
    assert torch.equal(case.attack(NOTHING[name], threat)[0], case.attack(Transfer(), threat)[0])


def test_looking_ahead_without_momentum_changes_nothing(case):
    still = Transfer(decay=0)
    assert torch.equal(on_surrogate(replace(still, nesterov=True), case)[0], on_surrogate(still, case)[0])
    assert not torch.equal(on_surrogate(Transfer(nesterov=True), case)[0], on_surrogate(Transfer(), case)[0])


@pytest.mark.parametrize(
    ("attack", "each", "saved"),
    [
        (Transfer(), 1, 0),
        (Transfer(nesterov=True), 1, 0),
        (Transfer(smoothing=Variance()), 21, 20),  # the last step needs no variance
        (Transfer(smoothing=Flatness()), 40, 0),
        (Transfer(views={"si": Scales()}), 5, 0),
        (Transfer(views={"admix": Admix(), "si": Scales()}), 15, 0),
        (Transfer(views={"sia": BlockTransforms()}), 20, 0),
        (Transfer(views={"bsr": ShuffledRotations()}), 20, 0),
        (Transfer(views={"di": Diversity(copies=5), "si": Scales()}, kernel=Kernel(5), nesterov=True), 25, 0),
    ],
)
def test_steps_cost_what_the_papers_say(attack, each, saved, case):
    attack = replace(attack.stocked(case.x, case.y), steps=2)
    _, counts = on_surrogate(attack, case)
    assert counts.backwards.tolist() == [2 * each - saved] * len(case.ids)
    assert torch.equal(counts.forwards, counts.backwards)


def test_a_victim_is_asked_at_each_point(case):
    case.y = (case.y + 1) % 5  # wrong from the start
    for attack in NOTHING["di with probability 0"], Transfer(smoothing=Flatness()):
        z, counts = case.attack(attack, LINF)
        assert torch.equal(z, case.x)
        assert counts.forwards.max() == 1


def test_variance_and_flatness_of_a_linear_loss_change_nothing(make_case):
    class Flat(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :5]

    case = make_case(dtype=torch.float64)
    case.network, case.y = Flat(), torch.zeros_like(case.y)
    mi = on_surrogate(Transfer(loss="margin", decay=0.5, steps=3, step_size=0.01), case)[0]
    for smoothing in Variance(neighbours=2, reach=1e-6), Flatness(neighbours=2, reach=1e-6):
        z = on_surrogate(Transfer(loss="margin", decay=0.5, steps=3, step_size=0.01, smoothing=smoothing), case)[0]
        assert torch.allclose(z, mi, atol=1e-12)


def test_slopes_add_with_their_true_lengths():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.5, 0.0, 2.0]], dtype=torch.float64)
    hot = logits * 50
    y, ce = torch.tensor([0, 1]), log_scaled_loss("ce")
    slopes = [(0.5, LogScaledGradient(ce.cotangent(z, y), ce.log_scale(z, y))) for z in (logits, logits / 2)]
    true = sum((z.softmax(1) - torch.eye(3)[y]) / 2 for z in (logits, logits / 2))
    total = weighted_sum(*slopes)
    assert torch.allclose(total.direction * total.log_scale.exp()[:, None] * 2, true)
    assert torch.allclose(cross_entropy(logits, y), -logits.log_softmax(1).gather(1, y[:, None]).squeeze(1))
    tiny = weighted_sum(
        (0.5, LogScaledGradient(ce.cotangent(hot, y), ce.log_scale(hot, y))),
        (0.5, LogScaledGradient(ce.cotangent(hot, y), ce.log_scale(hot, y))),
    )
    assert torch.allclose(tiny.direction, ce.cotangent(hot, y))


def test_half_precision_gradients_stay_finite(make_case):
    case = make_case(scale=1e3)
    z, counts = on_surrogate(Transfer(views={"si": Scales(copies=3)}), case, dtype=torch.bfloat16)
    assert counts.bad_gradients.sum() == 0
    assert counts.zero_gradients.sum() == 0
    assert case.broken(z).float().mean() > 0.5


def image(side=9, channels=3, count=4):
    return Rng(3, torch.arange(count), "image").uniform((channels, side, side), dtype=torch.float64)


@pytest.mark.parametrize("rate", [1.5, 0.6])
def test_diversity_is_a_resize_and_a_pad(rate):
    x = image()
    piece = Diversity(probability=1, rate=rate)
    rng = Rng(0, torch.arange(len(x)), "v")
    low, high = sorted((9, int(9 * rate)))
    size = low + rng.stream("size").integers((1,), high - low)[:, 0]
    corner = (rng.stream("corner").uniform((2,)) * (high - size)[:, None]).floor().long()
    z = piece.draw(0, scene_of(x), rng).view(x)
    resize = lambda a, n: torch.nn.functional.interpolate(a, (n, n), mode="bilinear")  # noqa: E731
    for i in range(len(x)):
        canvas = torch.zeros(1, 3, high, high, dtype=torch.float64)
        top, left, n = *corner[i].tolist(), int(size[i])
        canvas[..., top : top + n, left : left + n] = resize(x[i : i + 1], n)
        assert torch.allclose(z[i : i + 1], resize(canvas, 9))


def test_sia_rearranges_and_scales_blocks():
    x = image(count=64)
    z = shown(BlockTransforms(noise=0), x)
    assert not torch.equal(z, x)
    assert z.max() <= x.amax((1, 2, 3)).max()
    whole = shown(BlockTransforms(blocks=1, noise=0), x)  # one block: each image is permuted, or scaled as a whole
    ratio = (whole / x).flatten(1)
    scaled = (ratio - ratio[:, :1]).abs().amax(1) < 1e-9
    assert torch.allclose(whole[~scaled].flatten(1).sort(1).values, x[~scaled].flatten(1).sort(1).values)
    assert 0 < scaled.sum() < 40


def test_bsr_without_rotation_permutes_pixels():
    x = image(count=16)
    z = shown(ShuffledRotations(degrees=0), x)
    assert not torch.equal(z, x)
    assert torch.allclose(z.flatten(2).sort(2).values, x.flatten(2).sort(2).values)
    assert torch.allclose(shown(ShuffledRotations(blocks=1, degrees=0), x), x)


def test_bsr_turns_about_the_centre():
    x = image(count=8)
    z = shown(ShuffledRotations(blocks=1, degrees=180), x)
    angles = Rng(0, torch.arange(8), "v").stream("angle").uniform((1,), -180, 180)[:, 0].tolist()
    turn = partial(rotate, interpolation=InterpolationMode.BILINEAR)
    for before, after, angle in zip(x, z, angles, strict=True):  # either way round: the axes are drawn too
        assert any(torch.allclose(after, turn(before, sign * angle), atol=1e-5) for sign in (1, -1))


@pytest.mark.parametrize(
    "piece", [Diversity(rate=1.5), BlockTransforms(), ShuffledRotations()], ids=lambda p: type(p).__name__
)
def test_each_image_has_draws_of_its_own(piece):
    x = image(count=1).expand(20, -1, -1, -1)
    z = shown(piece, x)
    assert len({row.numpy().tobytes() for row in z}) > 5
    alone = piece.draw(0, scene_of(x[:1]), Rng(0, torch.tensor([7]), "v")).view(x[:1])
    assert torch.allclose(alone, z[7:8], atol=1e-12)


def test_admix_takes_other_classes_only():
    x, labels = image(count=6), torch.tensor([0, 0, 1, 1, 2, 2])
    piece = Admix(strength=1.0).stocked(labels[:, None, None, None].double().expand(-1, 3, 9, 9), labels)
    for copy in range(3):
        other = piece.draw(copy, scene_of(x, labels), Rng(0, torch.arange(6), "v")).view(x) - x
        assert (other[:, 0, 0, 0].round().long() != labels).all()
    with pytest.raises(UserError, match="no image of another class"):
        Admix().stocked(x, torch.zeros_like(labels)).draw(0, scene_of(x), Rng(0, torch.arange(6), "v"))
    with pytest.raises(UserError, match="hands over none"):
        Admix().draw(0, scene_of(x), Rng(0, torch.arange(6), "v"))


def test_scales_share_what_was_mixed_in():
    x = image(count=2)
    pieces = {"admix": Admix(copies=3).stocked(image(count=9), torch.ones(9, dtype=torch.long)), "si": Scales(copies=3)}
    gallery = TransformGrid(pieces, scene_of(x), Rng(0, torch.arange(2), "v"))
    views = [gallery.shown(copy, "").view(x) for copy in range(gallery.count)]
    assert len(views) == 9
    assert torch.allclose(views[0], 2 * views[1])
    assert torch.allclose(views[3], 4 * views[5])
    assert not torch.allclose(views[0], views[6])


def test_a_kernel_blurs_and_keeps_what_is_even():
    spike = torch.zeros(1, 2, 31, 31)
    spike[:, 0, 15, 15] = 1e-30
    blurred = Kernel()(spike)
    assert torch.isclose(blurred[:, 0].sum() * 1e30, torch.tensor(1.0))
    assert blurred[0, 0, 15, 15] == blurred.max()
    assert blurred[0, 1].abs().max() == 0


@dataclass(frozen=True)
class Ten:
    """A split of ten images in order of their classes."""

    def __len__(self) -> int:
        return 10

    def read(self, positions: list[int]) -> Batch:
        at = torch.tensor(positions)
        return Batch(at, at[:, None, None, None] / 10.0, at // 5)


def test_the_pool_is_spread_over_the_split():
    attack = stocked(Transfer(views={"admix": Admix(images=4)}), Ten())
    pool: tuple[Tensor, Tensor] = attack.views["admix"].pool
    assert pool[1].tolist() == [0, 0, 1, 1]
    assert stocked(Transfer(views={"admix": Admix(images=100)}), Ten()).views["admix"].pool[1].shape == (10,)
    plain_attack = Transfer()
    assert stocked(plain_attack, Ten()) is plain_attack


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Transfer(steps=0), "attack.steps=0"),
        (lambda: Transfer(step_size=0), "attack.step_size=0"),
        (lambda: Transfer(decay=-1), "attack.decay=-1"),
        (lambda: Transfer(targets=-1), "attack.targets=-1"),
        (lambda: Transfer(loss="dlr"), "loss='dlr'"),
        (lambda: Diversity(rate=1), "rate=1"),
        (lambda: Kernel(size=4), "size=4"),
        (lambda: Admix(images=1), "images=1"),
        (lambda: Flatness(balance=2), "balance=2"),
        (lambda: Variance(neighbours=0), "neighbours=0"),
        (lambda: shown(BlockTransforms(blocks=10), image()), "blocks=10"),
        (lambda: shown(Diversity(), torch.zeros(1, 1, 4, 5)), "4 x 5"),
    ],
)
def test_mistakes_are_one_line(make, says):
    with pytest.raises(UserError, match=says):
        make()

"""Every cotangent against float64 autograd of the loss that it stands for, and at extreme logits."""

import pytest
import torch

from gauntlet.attacks import losses
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng


def logits_and_labels(correct):
    z = 3 * Rng(0, torch.arange(200), "z").normal((10,), dtype=torch.float64)
    y = z.argmax(1) if correct else Rng(0, torch.arange(200), "y").integers((), 10)
    return z.requires_grad_(), y


def values(z, y, t):
    """The losses as their papers write them."""
    p, ordered = z.softmax(1), z.sort(1, descending=True).values

    def at(v, index):
        return v.gather(1, index[:, None]).squeeze(1)

    rival = losses.runner_up(z.detach(), y)
    other = rival if t is None else t
    scale = ordered[:, 0] - (ordered[:, 2] if t is None else (ordered[:, 2] + ordered[:, 3]) / 2)
    small = (z / (ordered[:, 0] - ordered[:, 1]).detach()[:, None]).log_softmax(1)
    return {
        losses.mifpe: -at(small, y) if t is None else at(small, t),
        losses.ce: -at(p, y).log() if t is None else at(p, t).log(),
        losses.margin: at(z, other) - at(z, y),
        losses.dlr: (at(z, other) - at(z, y)) / scale,
        losses.pm: at(p, other) - at(p, y),
        losses.rival_probability: at(p, other),
        losses.true_probability: at(p, y),
    }


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("correct", [False, True])
def test_cotangents_are_the_gradients(correct, targeted):
    z, y = logits_and_labels(correct)
    target = (y + 3) % 10 if targeted else None
    for loss, value in values(z, y, target).items():
        if targeted and loss is losses.true_probability:
            continue
        (gradient,) = torch.autograd.grad(value.sum(), z, retain_graph=True)
        size = gradient.abs().sum(1, keepdim=True)
        alive = size.squeeze(1) > 1e-9  # dlr: some gradients vanish; there the cotangent falls back to the margin
        ours = loss(z, y, target)
        assert torch.allclose(ours[alive], (gradient / size)[alive], atol=1e-9), loss.__name__
        assert ours.abs().sum(1) == pytest.approx(1)
        if loss is not losses.dlr:
            assert alive.all(), loss.__name__
        assert ours.sum(1).abs().max() < 1e-9, loss.__name__


@pytest.mark.parametrize("name", [*losses.LOSSES, "rival_probability", "true_probability"])
@pytest.mark.parametrize("gap", [20.0, 104.0, 300.0, 1e4, 1e30])
def test_no_cotangent_saturates(name, gap):
    loss = getattr(losses, name)
    z = torch.tensor([[gap, 0.0, -0.5, -1.0]])
    for y in (0, 3):  # confident and right; confident and wrong
        g = loss(z, torch.tensor([y]))
        assert g.isfinite().all()
        assert g.abs().sum().item() == pytest.approx(1, rel=1e-5)
    if loss is not losses.dlr:
        assert loss(z, torch.tensor([0]))[0, 0].abs() > 0.3  # the true class keeps its share


def test_half_precision_logits_are_widened():
    z = torch.tensor([[15.0, 1.0, 0.0, -2.0]], dtype=torch.bfloat16)
    assert losses.pm(z, torch.tensor([0])).dtype == torch.float32


def test_pm_is_the_margin_at_the_boundary_and_keeps_the_cross_entropy_far_away():
    y = torch.tensor([0])
    near = losses.pm(torch.tensor([[1.0, 1.0, -4.0, -5.0]], dtype=torch.float64), y)
    assert torch.allclose(
        near, losses.margin(torch.tensor([[1.0, 1.0, -4.0, -5.0]], dtype=torch.float64), y), atol=1e-2
    )
    far = losses.pm(torch.tensor([[50.0, 0.0, -0.1, -0.2]], dtype=torch.float64), y)
    assert (far[0, 1:] > 0.05).all()


def test_too_few_classes_for_dlr():
    with pytest.raises(UserError, match="loss=margin"):
        losses.dlr(torch.zeros(1, 2), torch.tensor([0]))


def test_an_unknown_loss_lists_the_known_ones():
    with pytest.raises(UserError, match="ce, margin, dlr, pm"):
        losses.named("cw")


@pytest.mark.parametrize("loss", [losses.ce, losses.pm, losses.rival_probability])
def test_cooling_touches_only_what_a_softmax_cannot_resolve(loss):
    y = torch.zeros(1, dtype=torch.long)
    soft = torch.tensor([[12.0, 0.0, -1.0, -2.0]])
    assert torch.equal(losses.temperature_scaled(loss)(soft, y), loss(soft, y))
    unit = loss(torch.tensor([[1.0, 0.0, -1 / 12, -2 / 12]]), y)
    for scale in (10.0, 1e3, 1e8, 1e30):
        assert torch.allclose(losses.temperature_scaled(loss)(soft * scale, y), unit, atol=1e-6)
    tied = torch.tensor([[0.0, 0.0, -1.0, -2.0]])
    assert losses.temperature_scaled(loss)(tied, y).isfinite().all()


def test_mifpe_survives_a_tie_and_does_not_see_the_scale():
    z, y = torch.tensor([[2.0, 2.0, 1.0], [3.0, 1.0, 0.0]]), torch.tensor([0, 0])
    ours = losses.mifpe(z, y)
    assert torch.allclose(ours[0], torch.tensor([-0.5, 0.5, 0.0]))
    others = torch.tensor([1.0, 0.5]).softmax(0) / 2  # the gap is 2
    assert torch.allclose(ours[1], torch.tensor([-0.5, *others]))
    assert torch.allclose(losses.mifpe(1e6 * z, y), ours)


def test_mifpe_as_it_is_written_falls_on_the_way_to_the_boundary_and_its_value_here_rises():
    y = torch.zeros(2, dtype=torch.long)
    far, near = torch.tensor([3.0, 1.0, 0.0]), torch.tensor([2.1, 2.0, 0.0])
    z = torch.stack([far, near])
    written = torch.nn.functional.cross_entropy(z / torch.tensor([[2.0], [0.1]]), y, reduction="none")
    assert written[1] < written[0]
    value = losses.scored("mifpe").value(z, y)
    assert value[1] > value[0]


def test_along_follows_the_weights():
    weights = torch.tensor([[1.0, -3.0]])
    assert torch.equal(losses.along(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), weights), weights / 4)

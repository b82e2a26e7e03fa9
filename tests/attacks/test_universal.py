"""Perturbations for all images: closed forms, costs, and a fit that can be stopped anywhere."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from gauntlet.attacks.universal.spgd import SGA, SPGD, LogScaledMeanGradient
from gauntlet.attacks.universal.uap import UAP
from gauntlet.attacks.universal.universal_perturbation import UniversalState, moved
from gauntlet.errors import UserError
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, Victim, plain

SMALL = {"images": None, "epochs": 3, "batch": 8}
ATTACKS = [SPGD(**SMALL), SGA(**SMALL, inner=4, decay=0.9), UAP(images=None, epochs=2, fooling=1.0)]


class Given:
    """Images in memory that remember what was read."""

    def __init__(self, ids, x, y):
        self.ids, self.x, self.y, self.seen = ids, x, y, []

    def read(self, positions):
        self.seen += positions.tolist()
        return self.x[positions], self.y[positions]


class Linear(nn.Module):
    """Two classes: w x - 1e-3, so that mid-grey and what is near it belong to the first."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.w, self.scale = Rng(1, torch.arange(1), "w").normal((12,), dtype=torch.float64)[0], scale

    def forward(self, x):
        score = (x - 0.5).flatten(1).double() @ self.w
        return self.scale * torch.stack([1e-3 - score, score], 1)


def door(victim, index=0):
    return CountedHead(victim.heads[index], victim.predict, Counts.of(torch.arange(0)))


def grey(count=20, network=None):
    network = Linear() if network is None else network
    ids = torch.arange(count)
    x = 0.5 + Rng(0, ids, "x").uniform((3, 2, 2), -1e-5, 1e-5, dtype=torch.float64)
    return door(Victim(plain(network), (network,))), Given(ids, x, network(x).argmax(1))


def fit(attack, head, images, threat, seed=0, state=None):
    return list(attack.fit(head, images, threat=threat, rng=Rng(seed, images.ids, "fit"), state=state))


def of_case(case):
    return door(case.victim), Given(case.ids, case.x, case.y)


def fooled(case, delta):
    return (case.network((case.x + delta).clamp(0, 1)).argmax(1) != case.network(case.x).argmax(1)).sum()


@pytest.mark.parametrize("loss", ["ce", "logit"])
@pytest.mark.parametrize("cls", [SPGD, SGA])
def test_on_a_linear_network_ten_steps_give_eps_times_the_sign_of_the_weights(cls, loss):
    head, images = grey()
    states = fit(cls(images=None, epochs=10, batch=20, loss=loss, clip=1e9), head, images, Threat("linf", 0.05))
    assert len(states) == 10
    expected = 0.05 * Linear().w.sign().reshape(3, 2, 2)  # every image is of the first class
    assert torch.allclose(states[-1].delta, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cls", [SPGD, SGA])
def test_on_a_linear_network_the_l2_answer_is_eps_times_the_unit_weights(cls):
    head, images = grey()
    delta = fit(cls(images=None, epochs=10, batch=20), head, images, Threat("l2", 0.05))[-1].delta
    w = Linear().w.reshape(3, 2, 2)
    assert torch.allclose(delta, 0.05 * w / w.norm(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_uap_on_a_linear_network_ends_at_the_first_move_over_the_boundary(norm):
    head, images = grey()
    state = fit(UAP(images=None, fooling=1.0, overshoot=0.1), head, images, Threat(norm, 0.05))[-1]
    w = Linear().w.reshape(3, 2, 2)
    assert torch.allclose(state.delta / state.delta.norm(), w / w.norm(), atol=1e-9)
    least = 0.5e-3 * w.norm() / w.square().sum()
    assert 0.98 * least < state.delta.norm() < 1.25 * least
    assert state.step == UAP(images=None).length(20)  # it stops there, though ten epochs were allowed


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4, 1e8])
def test_the_mean_of_tiny_gradients_does_not_underflow(scale):
    head, images = grey(network=Linear(scale))
    images.x += 0.3 * (-Linear().w.sign()).reshape(3, 2, 2)  # confident: exp(-scale * 5) and less
    delta = fit(SGA(images=None, epochs=3, batch=20), head, images, Threat("linf", 0.05))[-1].delta
    assert torch.allclose(delta.sign(), Linear().w.sign().reshape(3, 2, 2))


@pytest.mark.parametrize("loss", ["ce", "logit"])
@pytest.mark.parametrize("clip", [9.0, 1.5])
def test_the_gradient_is_the_gradient_of_the_clipped_mean_loss(loss, clip, make_case):
    case = make_case(dtype=torch.float64)
    head, _ = of_case(case)
    attack = SPGD(loss=loss, clip=clip, images=None)
    delta = Rng(3, torch.arange(1), "d").uniform((1, 4, 4), -0.2, 0.2, dtype=torch.float64)[0].requires_grad_()
    logits = case.network((case.x + delta).clamp(0, 1))
    values = nn.functional.cross_entropy(logits, case.y, reduction="none").clamp_max(clip)
    values = values if loss == "ce" else -logits.gather(1, case.y[:, None])
    (expected,) = torch.autograd.grad(values.mean(), delta)
    gradient = attack._mean_gradient(
        replace(head, counts=Counts.of(case.ids)), case.x, case.y, delta.detach(), Threat("linf", 0.2),
        Rng(0, case.ids, "f"),
    )  # fmt: skip
    cosine = torch.cosine_similarity(gradient.direction.flatten(), expected.flatten(), dim=0)
    assert cosine == pytest.approx(1.0, abs=1e-12)
    size = gradient.direction.norm().log() + gradient.scale - expected.norm().log()
    assert size == pytest.approx(0.0 if loss == "logit" else -math.log(2), abs=1e-9)


def test_sums_of_gradients_keep_their_scale():
    one, tiny, none = (
        LogScaledMeanGradient(torch.tensor([v]), s) for v, s in [(1.0, 0.0), (2.0, -3.0), (0.0, -float("inf"))]
    )
    both = one.plus(tiny).plus(none)
    assert float(both.direction) * torch.tensor(both.scale).exp() == pytest.approx(1 + 2 * 2.718281828**-3)
    assert none.plus(none) == none
    far = LogScaledMeanGradient(torch.tensor([1.0]), -1e6)
    assert float(far.plus(far).direction) == 2.0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_sga_without_looking_ahead_is_spgd(norm, case):
    head, images = of_case(case)
    threat = Threat(norm, 0.1)  # SGA scales the gradient before it steps: the last bit may differ
    ahead = SGA(**SMALL, sweeps=1, inner=8)
    states = [fit(attack, head, images, threat) for attack in (SPGD(**SMALL), ahead)]
    for one, other in zip(*states, strict=True):
        assert torch.allclose(one.delta, other.delta, rtol=0, atol=1e-6)
        assert (one.forwards, one.backwards) == (other.forwards, other.backwards)


def test_a_short_last_batch_counts_only_its_own_images(case):
    """A mean over a padded batch would weigh the last images less, here against the momentum of the first."""
    head, images = of_case(case)
    attack = SPGD(images=None, epochs=1, batch=23, loss="logit", step_size=1.0)
    last = fit(attack, head, images, Threat("l2", 0.3))
    order = Rng(0, images.ids, "fit").stream("order").stream(0).bits((1,)).squeeze(1).argsort(stable=True)
    x, y = case.x[order[23:]], case.y[order[23:]]
    delta = last[0].delta.clone().requires_grad_()
    there = (x + delta).clamp(0, 1)
    (gradient,) = torch.autograd.grad(-case.network(there).gather(1, y[:, None]).mean(), delta)
    expected = moved(last[0].delta, 0.3 * gradient / gradient.norm(), Threat("l2", 0.3))
    assert torch.allclose(last[1].delta, expected, atol=1e-6)


@pytest.mark.parametrize("count", [24, 20, 9])
def test_the_passes_of_sga_and_spgd(case, count):
    """Per epoch over N images the published codes pay N (1 + K) F and K N B (SGA), 2 N F and N B (SPGD); asking for the
    clean prediction once, and not in every epoch, saves N F in each epoch but the first."""
    head, images = of_case(case)
    images.ids = images.ids[:count]
    for attack, sweeps in ((SPGD(**SMALL), 1), (SGA(**SMALL, inner=3), 4)):
        state = fit(attack, head, images, Threat("linf", 0.1))[-1]
        assert state.forwards == count + 3 * sweeps * count
        assert state.backwards == 3 * sweeps * count
    true = fit(SPGD(**SMALL, labels="true"), head, images, Threat("linf", 0.1))[-1]
    assert true.forwards == true.backwards == 3 * count


def test_the_passes_of_uap():
    """One image after the other: a forward to look; for a move a backward for each rival, and a look where it led."""
    head, images = grey()
    state = fit(UAP(images=None, fooling=0.9, overshoot=0.1), head, images, Threat("linf", 0.05))[-1]
    looks = 20 + 20 + 20 + 1  # clean predictions, visits, the end of the epoch; and one look over the boundary
    assert (state.forwards, state.backwards) == (looks, 1)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
def test_going_on_from_any_step_gives_the_same_bits(attack, case):
    head, images = of_case(case)
    whole = fit(attack, head, images, Threat("linf", 0.03))
    assert whole[-1].step == len(whole) == attack.length(24)
    for state in (whole[0], whole[len(whole) // 2], whole[-1]):
        rest = [state, *fit(attack, head, images, Threat("linf", 0.03), state=state)]
        assert all(
            torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
            for one, other in zip(rest[-1], whole[-1], strict=True)
        )


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_perturbation_stays_in_the_ball_fools_and_follows_the_seed(attack, norm, case):
    head, images = of_case(case)
    threat = Threat(norm, 0.2 if norm == "linf" else 0.8)
    states = [fit(attack, head, images, threat, seed)[-1] for seed in (0, 0, 1)]
    delta = states[0].delta
    assert torch.equal(delta, states[1].delta)
    assert not torch.equal(delta, states[2].delta)
    ball = Threat(norm, threat.eps, -1.0, 1.0)
    assert ball.contains(delta[None], torch.zeros_like(delta)[None]).all()
    assert fooled(case, delta) >= 5
    assert set(images.seen) == set(range(24))
    random = threat.radius * Rng(0, torch.arange(1), "r").normal((1, 4, 4))[0].sign() / (1 if norm == "linf" else 4)
    assert fooled(case, delta) > fooled(case, random)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
def test_the_size_of_the_passes_does_not_matter(attack, make_case):
    case = make_case(dtype=torch.float64)
    head, images = of_case(case)
    whole, parts = (fit(attack, replace(head, batch_size=n), images, Threat("linf", 0.1))[-1] for n in (None, 3))
    assert torch.allclose(whole.delta, parts.delta, rtol=0, atol=1e-9)
    assert (whole.forwards, whole.backwards) == (parts.forwards, parts.backwards)


def test_what_fools_a_surrogate_is_judged_by_the_deployed_forward(case):
    """Labels are the deployed defense's, whichever head gives the gradients."""
    wrong = Head("wrong", lambda x, rng: -case.network(x))
    victim = Victim(plain(case.network), (case.network,), (wrong,))
    state = fit(SPGD(**SMALL), door(victim, 1), Given(case.ids, case.x, case.y), Threat("linf", 0.1))[-1]
    assert torch.equal(state.labels, case.network(case.x).argmax(1))


def test_an_unfitted_attack_is_not_applied(case):
    with pytest.raises(ValueError, match="fitted"):
        SGA()(None, case.x, case.y, threat=Threat("linf", 0.1), rng=None)


def test_a_start_has_no_perturbation(case):
    _, images = of_case(case)
    state = UniversalState.start(images)
    assert not state.delta.any()
    assert (state.labels == -1).all()


@pytest.mark.parametrize(
    ("cls", "knobs"),
    [
        (SPGD, {"images": 0}), (SPGD, {"epochs": 0}), (SPGD, {"batch": 0}), (SPGD, {"step_size": 0.0}),
        (SPGD, {"loss": "dlr"}), (SPGD, {"clip": 0.0}), (SPGD, {"labels": "both"}), (SPGD, {"images": 100}),
        (SGA, {"sweeps": 0}), (SGA, {"inner": 0}), (SGA, {"decay": 1.0}),
        (UAP, {"images": -1}), (UAP, {"epochs": 0}), (UAP, {"fooling": 0.0}), (UAP, {"steps": 0}),
        (UAP, {"classes": 0}), (UAP, {"overshoot": -1.0}),
    ],
)  # fmt: skip
def test_bad_knobs(cls, knobs):
    with pytest.raises(UserError, match=f"attack.{'batch=250' if knobs == {'images': 100} else next(iter(knobs))}"):
        cls(**knobs)


def test_fewer_images_than_a_batch(case):
    with pytest.raises(UserError, match=r"attack.batch=250, but there are 24 training images; give attack.batch=24"):
        SPGD(images=None).length(24)

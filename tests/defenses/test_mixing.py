import pytest
import torch
from torch import nn

from gauntlet.defenses.adaptive_smoothing import AdaptiveSmoothing
from gauntlet.defenses.mixing import Mixing, mixed
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng

PARTS = {"accurate": None, "robust": None}


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(0.5, (-0.517990, -1.272056, -2.087245)), (0.8, (-0.938018, -0.866453, -1.670480))],
)
def test_golden_values(alpha, expected):
    g, h = torch.tensor([[4.0, 1.0, 0.0]]).double(), torch.tensor([[0.2, 0.9, 0.1]]).double()
    assert mixed(g, h, alpha)[0].tolist() == pytest.approx(expected, abs=1e-6)


def logits(seed):
    return 5 * Rng(seed, torch.arange(50), "z").normal((10,), dtype=torch.float64)


def test_limits_and_normalisation():
    g, h = logits(0), logits(1)
    assert torch.allclose(mixed(g, h, 0.0), g.log_softmax(1))
    assert torch.allclose(mixed(g, h, 1.0), h.log_softmax(1))
    alpha = Rng(0, torch.arange(50), "a").uniform((), dtype=torch.float64)
    assert torch.allclose(mixed(g, h, alpha).exp().sum(1), torch.ones(50, dtype=torch.float64))
    direct = ((1 - alpha)[:, None] * g.softmax(1) + alpha[:, None] * h.softmax(1)).log()
    assert torch.allclose(mixed(g, h, alpha), direct)


def test_no_underflow_at_huge_logits():
    g, h = torch.tensor([[900.0, 0.0]]), torch.tensor([[0.0, 900.0]])
    assert mixed(g, h, 0.75)[0].tolist() == pytest.approx([-1.386294, -0.287682], abs=1e-5)
    z = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    mixed(z, z, 0.75).sum().backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("alpha", [0.5, 0.6, 0.9, 0.99])
def test_the_margin_lemma_against_every_one_hot_opponent(alpha):
    p = logits(2).softmax(1)
    top = p.sort(1, descending=True).values
    safe = top[:, 0] - top[:, 1] > (1 - alpha) / alpha
    for enemy in range(10):
        g = torch.full((50, 10), -1e9, dtype=torch.float64)
        g[:, enemy] = 0
        held = mixed(g, p.log(), alpha).argmax(1) == p.argmax(1)
        assert held[safe].all()


@pytest.mark.parametrize(
    "knobs",
    [
        {"alpha": 0.4},
        {"alpha": 1.1},
        {"accurate_scale": 0.0},
        {"robust_scale": float("nan")},
        {"parts": {"robust": None}},
    ],
)
def test_bad_knobs_of_mixing(knobs):
    with pytest.raises(UserError):
        Mixing(**({"parts": PARTS} | knobs))


@pytest.mark.parametrize(
    "knobs",
    [
        {"alpha_low": 0.3},
        {"alpha_low": 0.9, "alpha_high": 0.8},
        {"alpha_high": 1.2},
        {"gamma_scale": 0.0},
        {"parts": PARTS},
    ],
)
def test_bad_knobs_of_adaptive_smoothing(knobs):
    with pytest.raises(UserError):
        AdaptiveSmoothing(**({"parts": PARTS | {"mixer": None}} | knobs))


class Base(nn.Module):
    """Two tapped layers and a head."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.layer1 = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.head = nn.Linear(48, 4)

    def forward(self, x):
        return self.head(self.layer1(self.stem(x).relu()).relu().flatten(1))


class Mixer(nn.Module):
    """gamma = what it is told."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, early, late):
        assert [e.shape[1] for e in early] == [2, 2]
        assert [e.shape[1] for e in late] == [3, 3]
        return torch.full((len(early[0]),), self.value)


@pytest.mark.parametrize(("gamma", "alpha"), [(-1e9, 0.6), (1e9, 0.95), (0.0, 0.775)])
def test_alpha_stays_in_its_range(gamma, alpha):
    with torch.random.fork_rng():
        g, h = Base(0), Base(1)
    defense = AdaptiveSmoothing(parts=PARTS | {"mixer": None}, alpha_low=0.6, alpha_high=0.95, gamma_bias=0.0)
    victim = defense.deploy({"accurate": g, "robust": h, "mixer": Mixer(gamma)})
    x = Rng(0, torch.arange(5), "x").uniform((1, 8, 8))
    assert torch.allclose(victim.predict(x, Rng(0, torch.arange(5))), mixed(g(x), h(x), alpha), atol=1e-6)


def test_a_missing_layer_names_the_layers():
    with torch.random.fork_rng():
        g, h = Base(0), Base(1)
    defense = AdaptiveSmoothing(parts=PARTS | {"mixer": None}, taps=[["stem", "layer1"], ["stem", "layer9"]])
    with pytest.raises(UserError, match=r"layer9.*layer1"):
        defense.deploy({"accurate": g, "robust": h, "mixer": Mixer(0.0)})

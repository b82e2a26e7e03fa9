"""The minimum-norm attacks where the answer is known, and their contract without a bound."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.fab import FAB
from gauntlet.attacks.minimum_norm.ddn import DDN
from gauntlet.attacks.minimum_norm.epsilon_search import Search
from gauntlet.attacks.minimum_norm.fmn import FMN
from gauntlet.attacks.minimum_norm.minimum_norm_loop import REFINE, dual_norm
from gauntlet.attacks.minimum_norm.pdpgd import PDPGD, shrink
from gauntlet.attacks.minimum_norm.sigma_zero import SigmaZero
from gauntlet.attacks.minimum_norm.warm_fmn import WarmFMN
from gauntlet.attacks.suite import Suite
from gauntlet.errors import UserError
from gauntlet.threat_model.attack import traits_of
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

ATTACKS = {
    "fmn": FMN(steps=150), "ddn": DDN(steps=150, step_size=0.1, first=0.1), "pdpgd": PDPGD(steps=300),
    "fab": FAB(steps=20, targets=1), "search": Search(APGD(steps=40), rounds=9), "sigma_zero": SigmaZero(steps=150),
}  # fmt: skip
QUICK = {
    name: replace(attack, **({"inner": APGD(steps=15), "rounds": 6} if name == "search" else {"steps": 40}))
    for name, attack in ATTACKS.items()
} | {"fab": FAB(steps=5, targets=2), "ddn": DDN(steps=100)}
PAIRS = [(name, norm) for name, attack in ATTACKS.items() for norm in Threat.NORMS if norm in traits_of(attack).norms]


class Plane(nn.Module):
    """Two classes and a plane between them; `channels` x 4 x 4 pixels, in float64."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        weight = Rng(3, torch.arange(1), "plane").normal((16 * channels, 1), dtype=torch.float64)[0]
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x):
        half = (x - 0.5).flatten(1) @ self.weight / 2
        return torch.cat([half, -half], 1)


def on_a_plane(make_case, spread=0.05):
    """A case whose images lie in the middle of the box, so that no wall is in the way."""
    case = make_case(dtype=torch.float64)
    case.__init__(Plane(), dtype=torch.float64)
    case.x = 0.5 + spread * (case.x - 0.5)
    case.y = case.network(case.x).argmax(1)
    return case


@pytest.mark.parametrize(("inner", "norm"), [("search", "linf"), ("fab", "l1"), ("ddn", "l2"), ("sigma_zero", "l0")])
def test_a_warm_start_is_never_farther_than_where_it_began(inner, norm, make_case):
    case, threat = make_case(dtype=torch.float64), Threat(norm, "unbounded")
    few = replace(QUICK[inner], rounds=3) if inner == "search" else replace(QUICK[inner], steps=2)
    begun, _ = case.attack(WarmFMN(steps=1, inner=few), threat)
    z, _ = case.attack(WarmFMN(steps=40, inner=few), threat)
    first, last = threat.distance(begun, case.x), threat.distance(z, case.x)
    found = case.broken(begun) & (first > 0)
    assert found.sum() > 5
    assert (case.broken(z)[found]).all()
    assert (last[found] <= first[found] + 1e-9).all()
    assert (last[found] < first[found]).any()


def test_an_attack_that_needs_an_eps_starts_nothing():
    with pytest.raises(UserError, match="needs an eps"):
        WarmFMN(inner=APGD())


@pytest.mark.parametrize(("name", "norm"), [pair for pair in PAIRS if pair[1] != "l0"])
def test_the_distance_to_a_plane(name, norm, make_case):
    case, threat = on_a_plane(make_case), Threat(norm, "unbounded")
    z, _ = case.attack(ATTACKS[name], threat)
    gap = (case.x - 0.5).flatten(1) @ case.network.weight
    exact = gap.abs().squeeze(1) / dual_norm(case.network.weight.T, norm)
    assert case.broken(z).all()
    far = threat.distance(z, case.x)
    assert (far >= exact - 1e-12).all()
    # PDPGD hovers about the boundary, and the sparse steps of Auto-PGD for l1 are coarse.
    rough = {("pdpgd", "l1"): 0.2, ("pdpgd", "l2"): 0.1, ("search", "l1"): 0.05}.get((name, norm))
    assert far.tolist() == pytest.approx(exact.tolist(), **({"abs": 1e-4} if rough is None else {"rel": rough}))


SHIFTED = [("fmn", "linf"), ("fmn", "l2"), ("fmn", "l1"), ("ddn", "l2"), ("fab", "linf"), ("fab", "l2"), ("fab", "l1")]


@pytest.mark.parametrize(("name", "norm"), SHIFTED)
@pytest.mark.parametrize("offset", [1e5, -1e6])
def test_an_offset_of_the_logits_hides_nothing_in_float32(name, norm, offset, make_case):
    far, threat = [], Threat(norm, "unbounded")
    for case in (make_case(scale=100.0), make_case(scale=100.0, offset=offset)):
        z, _ = case.attack(QUICK[name], threat)
        assert case.broken(z).all()
        far.append(threat.distance(z, case.x))
    assert far[1].median() < 1.02 * far[0].median()  # the last digits of such logits are 0.01 and 0.06


@pytest.mark.parametrize(("name", "slack"), [("fmn", 1), ("sigma_zero", 0)])
def test_the_fewest_pixels_to_a_plane(name, slack, make_case):
    case, threat = on_a_plane(make_case, spread=1.0), Threat("l0", "unbounded")
    z, _ = case.attack(ATTACKS[name], threat)
    gap = (case.x - 0.5).flatten(1) @ case.network.weight
    toward = torch.where(-gap.sign() * case.network.weight.T > 0, 1 - case.x.flatten(1), case.x.flatten(1))
    gains = (toward * case.network.weight.T.abs()).sort(dim=1, descending=True).values.cumsum(1)
    exact = 1 + (gains <= gap.abs()).sum(1)
    assert case.broken(z).all()
    more = threat.distance(z, case.x) - exact  # FMN ranks pixels by how far they moved, not by what that gained
    assert ((more >= 0) & (more <= slack)).all()


def test_pixels_are_counted_not_channels(make_case):
    case = make_case(dtype=torch.float64)
    case.network = Plane(3)
    case.victim = Victim(plain(case.network), (case.network,))
    case.x = Rng(0, case.ids, "colour").uniform((3, 4, 4), dtype=torch.float64)
    case.y = case.network(case.x).argmax(1)
    threat = Threat("l0", "unbounded")
    for name in ("fmn", "sigma_zero"):
        z, _ = case.attack(ATTACKS[name], threat)
        pixels = (z != case.x).any(1).sum((1, 2))
        assert case.broken(z).all()
        assert threat.distance(z, case.x).tolist() == pixels.tolist()
        assert ((z != case.x).sum((1, 2, 3)) > pixels).any()  # a changed pixel may change in all its channels


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_without_a_bound_the_nearest_find_is_kept(name, norm, case):
    threat, attack = Threat(norm, "unbounded"), QUICK[name]
    z, counts = case.attack(attack, threat)
    far = threat.distance(z, case.x)
    assert threat.contains(z, case.x).all()
    assert case.broken(z).all()
    assert (far > 0).all()
    if name not in ("search", "fab"):
        assert counts.forwards.tolist() == [attack.steps + (0 if norm == "l0" else REFINE)] * len(z)
        assert counts.backwards.tolist() == [attack.steps] * len(z)
    bound = Threat(norm, max(float(far.median()), 1e-3))
    near, _ = case.attack(attack, bound)
    assert bound.contains(near, case.x).all()
    assert case.broken(near).sum() >= len(z) // 3


@pytest.mark.parametrize(("name", "norm"), [("fmn", "linf"), ("fab", "l1"), ("pdpgd", "l2")])
def test_a_budget_for_each_sample_ends_each_walk(name, norm, case):
    far = Threat(norm, "unbounded").distance(case.attack(QUICK[name], Threat(norm, "unbounded"))[0], case.x)
    generous = torch.arange(len(far)) % 2 == 0
    threat = Threat(norm, "unbounded").within(torch.where(generous, 1.2 * far, 0.2 * far).float())
    z, counts = case.attack(QUICK[name], threat)
    assert case.broken(z).tolist() == generous.tolist()
    assert threat.contains(z, case.x).all()
    assert counts.forwards[generous].double().mean() < counts.forwards[~generous].double().mean()


@pytest.mark.parametrize("name", ["fmn", "ddn", "pdpgd", "sigma_zero"])
def test_more_of_the_same_steps_is_never_farther(name, case, monkeypatch):
    """The nearest adversarial example falls along the steps: what is noted at each step bounds the answer."""
    from gauntlet.attacks.minimum_norm import minimum_norm_loop

    norm = traits_of(QUICK[name]).norms[-1] if name in ("ddn", "sigma_zero") else "l2"
    threat, history = Threat(norm, "unbounded"), []
    note = minimum_norm_loop.NearestExamples.note

    def watched(self, *arguments):
        note(self, *arguments)
        history.append(self.distance.clone())

    monkeypatch.setattr(minimum_norm_loop.NearestExamples, "note", watched)
    z, _ = case.attack(QUICK[name], threat)
    found = history[-1].isfinite()
    assert found.sum() > len(found) // 2
    assert all((after <= before).all() for before, after in itertools.pairwise(history))
    assert torch.equal(threat.distance(z, case.x)[found], history[-1][found])


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_proximal_operators_minimise(norm):
    delta = Rng(0, torch.arange(1), "d").normal((1, 3, 3), dtype=torch.float64)
    order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]

    def cost(d, pull):
        return 0.5 * (d - delta).square().sum() + pull * torch.linalg.vector_norm(d.flatten(), order)

    for pull in (0.01, 0.7, 100.0):
        best = shrink(delta, torch.tensor([pull], dtype=torch.float64), norm)
        for seed in range(50):
            other = best + 0.03 * Rng(seed, torch.arange(1), "o").normal((1, 3, 3), dtype=torch.float64)
            assert cost(best, pull) <= cost(other, pull) + 1e-12
    assert not shrink(delta, torch.tensor([100.0], dtype=torch.float64), norm).any()


def test_a_suite_is_unbounded_where_all_its_stages_are():
    assert Suite({"fmn": FMN(), "fab": FAB()}).unbounded
    assert not Suite({"fmn": FMN(), "apgd": APGD()}).unbounded


@pytest.mark.parametrize(
    ("kind", "knobs"),
    [
        (FMN, {"steps": 0}), (FMN, {"rate": 1.0}), (FMN, {"last_rate": 0.5}), (FMN, {"step_size": math.inf}),
        (DDN, {"steps": 0}), (DDN, {"first": 0.0}), (DDN, {"rate": 0.0}), (PDPGD, {"memory": 1.0}),
        (PDPGD, {"inner": 0}), (PDPGD, {"dual_step": 0.0}), (SigmaZero, {"sigma": 0.0}),
        (SigmaZero, {"threshold": 1.0}), (SigmaZero, {"rate": -1.0}), (Search, {"rounds": 0}),
        (Search, {"inner": FMN()}), (Search, {"inner": "apgd"}),
    ],
)  # fmt: skip
def test_bad_knobs_get_one_line(kind, knobs):
    with pytest.raises(UserError, match=rf"^attack\.{next(iter(knobs))}") as caught:
        kind(**knobs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [FMN, DDN, PDPGD, SigmaZero])
def test_the_defaults_spend_what_attackbench_allows(kind):
    forwards = kind().steps + (0 if kind is SigmaZero else REFINE)
    assert 1900 < forwards + kind().steps <= 2000


def test_search_spends_no_more(case):
    _, counts = case.attack(Search(APGD(steps=97), rounds=10), Threat("l2", "unbounded"))
    assert ((counts.forwards + counts.backwards) <= 2002).all()

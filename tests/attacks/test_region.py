import pytest
import torch

from gauntlet.attacks.projected_ascent import PerturbationSet
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

THREATS = [
    Threat("linf", "8/255"),
    Threat("l2", 0.5),
    Threat("l1", 4.0),
    Threat("l0", 3.0),
    Threat("linf", "unbounded"),
]
SHAPE = (2, 4, 4)


@pytest.fixture
def draws():
    rng = Rng(0, torch.arange(6))
    x = rng.uniform(SHAPE).round(decimals=1)  # pixels on the edge of the box too
    x[0], x[1] = 0, 1
    return x, rng.stream("z").normal(SHAPE), rng.stream("gradient").normal(SHAPE)


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.label)
@pytest.mark.parametrize("own", [False, True], ids=["one eps", "eps of each"])
def test_it_projects_to_the_last_bit_as_the_threat_does(threat, own, draws):
    x, z, _ = draws
    threat = threat.scaled(torch.linspace(0, 2, len(x))) if own else threat
    wanted = threat.project(z, x)
    assert torch.equal(PerturbationSet.around(threat, x).project(z.clone()), wanted)
    assert threat.contains(wanted, x).all()


@pytest.mark.parametrize("threat", THREATS[:4], ids=lambda t: t.label)
def test_a_step_goes_along_the_steepest_direction_and_leaves_its_inputs_alone(threat, draws):
    x, z, gradient = draws
    z = threat.project(z, x)
    before = [t.clone() for t in (x, z, gradient)]
    length = torch.linspace(0.1, 2, len(x)).reshape(-1, 1, 1, 1)
    found = PerturbationSet.around(threat, x).step(z, gradient, length)
    assert torch.equal(found, threat.project(z + threat.budget(x) * length * threat.steepest(gradient), x))
    assert all(torch.equal(a, b) for a, b in zip((x, z, gradient), before, strict=True))
    assert found.data_ptr() not in {t.data_ptr() for t in (x, z, gradient)}


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.label)
@pytest.mark.parametrize("own", [False, True], ids=["one eps", "eps of each"])
def test_some_samples_keep_their_own_sets(threat, own, draws):
    x, z, _ = draws
    threat = threat.scaled(torch.linspace(0, 2, len(x))) if own else threat
    index = torch.tensor([4, 1])
    found = PerturbationSet.around(threat, x).select(index).project(z[index].clone())
    assert torch.equal(found, threat.project(z, x)[index])

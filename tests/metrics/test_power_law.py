"""The fitted power law of error against eps."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gauntlet.commands.power_law import lines, main
from gauntlet.errors import UserError
from gauntlet.metrics.power_law import fitted


def distances(exponent, count=20000, seed=0):
    """Distances whose distribution is eps^exponent on [0, 1]."""
    return np.random.default_rng(seed).uniform(size=count) ** (1 / exponent)


@pytest.mark.parametrize("exponent", [1.0, 2.2])
def test_the_exponent_of_the_distribution_is_found(exponent):
    law = fitted(distances(exponent, 4000), [], True)
    low, high = law.interval
    assert low < exponent < high
    assert high - low < 0.4
    assert law.factor == pytest.approx(1, rel=0.1)
    assert law.determination > 0.99
    assert law.half == pytest.approx(0.5 ** (1 / exponent), rel=0.05)
    assert all(law.used[1:-1])


def test_runs_at_a_few_eps_give_the_same_and_wrong_images_count_for_nothing():
    found = distances(2.0, 4000)
    radii = [0.1, 0.2, 0.3, 0.5, 0.9]
    law = fitted(np.append(found, np.zeros(100)), radii, False)
    assert law.samples == 4000
    assert law.eps == tuple(radii)
    assert law.used == (True, True, True, True, False)  # at 0.9 the error is 81 %
    assert law.exponent == pytest.approx(2, abs=0.15)
    assert law.half == np.inf


def test_the_saturating_law_is_exact_where_it_holds():
    eps = np.random.default_rng(1).weibull(1.7, 4000) * 0.4  # P(d <= eps) = 1 - exp(-(eps / 0.4)^1.7)
    law = fitted(eps, [], True)
    assert law.saturating == pytest.approx(1.7, abs=0.1)
    assert law.scale == pytest.approx(0.4, rel=0.05)
    assert law.exponent < law.saturating  # the power law alone bends


def test_too_few_points_are_refused():
    with pytest.raises(UserError, match="2 of 3 values of eps have an error"):
        fitted(distances(1.0, 4000), [0.1, 0.2, 0.9], False)
    with pytest.raises(UserError, match="0 of 0 values of eps"):
        fitted(np.full(50, np.inf), [], True)


def test_the_command_tells_the_exponent_of_the_runs_of_one_victim(tmp_path, capsys):
    manifest = {
        "name": {"defense": "none", "model": "small_cnn", "attack": "fmn"}, "dataset": {"name": "digits"},
        "threat": {"norm": "linf", "radius": None},
    }  # fmt: skip
    run = SimpleNamespace(path=Path("fmn"))
    told = list(lines([SimpleNamespace(manifest=manifest, distance=((np.arange(2000) + 0.5) / 2000) ** 0.5, run=run)]))
    assert told[0].startswith("none · small_cnn · digits · linf · 2000 images")
    assert any(line.startswith(("exponent   2.00", "exponent   1.99")) for line in told)
    assert main([str(tmp_path)]) == 1
    assert "there is no run in" in capsys.readouterr().err

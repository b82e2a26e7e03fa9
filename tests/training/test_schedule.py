"""The learning rate as a function of progress."""

import pytest

from gauntlet.training.recipe import SHAPES, factor


def test_cosine_falls_from_one_to_zero():
    assert factor("cosine", 0.0) == 1.0
    assert factor("cosine", 0.5) == pytest.approx(0.5)
    assert factor("cosine", 0.999999) == pytest.approx(0.0, abs=1e-9)


def test_step_falls_tenfold_at_each_milestone():
    rates = [factor("step", progress, milestones=[0.5, 0.75]) for progress in (0.0, 0.49, 0.5, 0.74, 0.75, 0.99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_linear_with_a_warm_up_of_a_half_is_one_cycle():
    rates = [factor("linear", progress, warmup=0.5) for progress in (0.0, 0.25, 0.5, 0.75, 0.999999)]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-5)
    assert [factor("linear", progress) for progress in (0.0, 0.3)] == pytest.approx([1, 0.7])


def test_constant_stays():
    assert {factor("constant", progress) for progress in (0.0, 0.3, 0.99)} == {1.0}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_warm_up_rises_linearly_to_the_peak(shape):
    rates = [factor(shape, progress, warmup=0.2) for progress in (0.0, 0.05, 0.1, 0.2)]
    assert rates == pytest.approx([0, 0.25, 0.5, 1])


def test_the_rate_of_a_step_is_a_function_of_its_number(make_recipe):
    recipe = make_recipe(schedule="step", milestones=[0.5], learning_rate=0.2)
    assert [recipe.rate(step, 4) for step in range(4)] == pytest.approx([0.2, 0.2, 0.02, 0.02])

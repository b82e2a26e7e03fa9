"""Corruption errors by their formula, by hand."""

import math

import pytest

from gauntlet.metrics.corruption_error import SEVERITIES, complete, corruption_error, mean_corruption_error, mean_error

FOG = dict(zip(SEVERITIES, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True))
SNOW = dict(zip(SEVERITIES, (0.3, 0.3, 0.3, 0.3, 0.3), strict=True))
WORSE = dict(zip(SEVERITIES, (0.6, 0.6, 0.6, 0.6, 0.6), strict=True))


def test_the_error_is_relative_to_that_of_the_reference():
    assert corruption_error(FOG, WORSE) == pytest.approx(1.5 / 3.0)
    assert corruption_error(FOG, FOG) == 1
    assert corruption_error(FOG, WORSE, clean=0.1, reference_clean=0.2) == pytest.approx((1.5 - 0.5) / (3.0 - 1.0))
    assert math.isnan(corruption_error(FOG, dict.fromkeys(SEVERITIES, 0.0)))


def test_the_mean_is_over_corruptions_and_not_over_errors():
    errors, reference = {"fog": FOG, "snow": SNOW}, {"fog": WORSE, "snow": FOG}
    assert mean_corruption_error(errors, reference) == pytest.approx((0.5 + 1.0) / 2)
    assert mean_error(errors) == pytest.approx(0.3)


def test_a_corruption_without_a_severity_is_in_no_mean():
    part = {severity: error for severity, error in WORSE.items() if severity != 5}
    assert complete({"fog": FOG, "snow": part}) == {"fog": FOG}
    assert mean_error({"fog": FOG, "snow": part}) == pytest.approx(0.3)
    assert mean_corruption_error({"fog": FOG, "snow": part}, {"fog": WORSE, "snow": WORSE}) == pytest.approx(0.5)
    assert math.isnan(mean_error({"snow": part}))
    assert math.isnan(mean_corruption_error({"fog": FOG}, {}))

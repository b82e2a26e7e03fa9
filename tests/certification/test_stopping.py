"""The probability that a rule claims too much, computed exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from gauntlet.certification.certifiable import Dual
from gauntlet.certification.confidence_sequence import hopeful_hits
from gauntlet.certification.noise import Gaussian
from gauntlet.certification.sequential_test import Stopping, floored, looks
from gauntlet.metrics.confidence import even, lower, most, randomized_lower, tail, upper
from gauntlet.verification.vote_bounds import look_bounds

ALPHA = 0.01


def radius(shares):
    return Gaussian(1.0).radius(shares[..., 0])


def plan(images, looked, selection=100, radii=(), alpha=ALPHA, bound="sequence", pilot=100):
    rule = Stopping(radius, alpha, images, 1, selection, looked, radii, bound=bound)
    rule.pilot[:] = min(pilot, selection)
    return rule


def claimed(number, looked, share, bound, pilot):
    """For every number of hits at a look: whether more than `share` is claimed there, of class 1."""
    drawn = looked[number]
    rule = plan(drawn + 1, looked, bound=bound, pilot=pilot)
    hits = np.arange(drawn + 1)
    rule.chosen[:] = 1
    rule.ended(hits, number, np.stack([drawn - hits, hits], 1)[:, None])
    return (rule.chosen == 1) & (rule.best > radius(np.array([share])))


def crossing(looked, share, bound="sequence", pilot=100):
    """P[the rule ever claims more than `share`] when that is the share: dynamic programming over hits at the looks."""
    alive, failed, before = np.ones(1), 0.0, 0
    for number, drawn in enumerate(looked):
        alive = np.convolve(alive, stats.binom.pmf(np.arange(drawn - before + 1), drawn - before, share))
        wrong = claimed(number, looked, share, bound, pilot)
        failed, alive, before = failed + alive[wrong].sum(), np.where(wrong, 0, alive), drawn
    return failed


@pytest.mark.parametrize("share", [0.5, 0.6, 0.8413, 0.9, 0.97725, 0.99, 0.9987])
@pytest.mark.parametrize("looked", [(1000,), looks(1000, 100, 1.5), looks(700, 20, 1.2)])
def test_no_rule_claims_too_much_more_often_than_alpha(share, looked):
    assert crossing(looked, share, "union") <= ALPHA
    assert max(crossing(looked, share, pilot=pilot) for pilot in (51, 84, 99, 100)) <= ALPHA


@pytest.mark.parametrize("share", [0.6, 0.9, 0.95])
def test_a_confidence_sequence_fails_no_more_often_than_alpha_at_all_numbers_of_draws(share):
    """Looked at after each draw, where bounds at single looks fail many times as often."""
    each = tuple(range(1, 201))
    found = [crossing(each, share, pilot=pilot) for pilot in (60, 98, 100)]
    assert 0 < max(found) <= ALPHA
    alive, fixed = np.ones(1), 0.0
    for drawn in each:
        alive = np.convolve(alive, [1 - share, share])
        wrong = lower(np.arange(drawn + 1), drawn, ALPHA) > share
        fixed, alive = fixed + alive[wrong].sum(), np.where(wrong, 0, alive)
    assert fixed > 1.5 * ALPHA


def test_the_verifier_finds_the_same_bounds_by_other_routines():
    rng = np.random.default_rng(0)
    for drawn in (1, 7, 100, 5000, 100_000):
        hits = rng.binomial(drawn, [0.2, 0.6, 0.99, 0.9999, 1.0])
        for pilot in (51, 99, 100):
            rule = Stopping(radius, 0.001, 1, 5, 100, (drawn, 200_000))
            rule.pilot[:] = pilot
            mine = rule.bounds(np.zeros(1, np.int64), hits[None], 0)[0]
            assert look_bounds(rule, 0, hits, [pilot] * 5) == pytest.approx(mine, rel=1e-9)


def test_hits_to_be_hoped_for_are_exceeded_as_often_as_said():
    """Shares from the posterior, and hits from these."""
    rng, prior = np.random.default_rng(1), (np.full(1, 97.0), np.full(1, 100.0))
    share = rng.beta(0.5 + 97 + 290, 0.5 + 13, 40_000)
    later = 290 + rng.binomial(700, share)
    for doubt in (0.3, 0.05, 0.01):
        hoped = hopeful_hits(np.full(1, 290.0), 300, 1000, prior, np.array([doubt]))
        assert (later > hoped).mean() == pytest.approx(doubt, rel=0.5)


@pytest.mark.parametrize(
    ("radii", "true"),
    [((0.5,), 0.0), ((0.5,), 0.25), ((0.5,), 0.5), *(((0.0, 0.5, 1.0, 1.5), true) for true in (0, 0.25, 0.5, 1, 1.5))],
)
def test_decide_and_grid_certify_what_is_not_there_no_more_often_than_alpha(radii, true):
    """As they run, selection and giving up included: the state is the hits of an image that still draws."""
    looked, selection, share = looks(600, 60, 1.5), 40, stats.norm.cdf(true)
    fails = [r for r in radii if r >= true]
    chosen = stats.binom.pmf(np.arange(selection + 1), selection, share)
    rule = plan(selection + 1, looked, selection, radii)
    going = rule.hopeful(np.arange(selection + 1), two_classes(np.arange(selection + 1), selection))
    total = 0.0
    for pilot in np.flatnonzero(going & (rule.chosen == 1) & (chosen > 1e-6)):  # the prior is another for each
        alive, failed, before = np.ones(1), 0.0, 0
        for number, drawn in enumerate(looked):
            alive = np.convolve(alive, stats.binom.pmf(np.arange(drawn - before + 1), drawn - before, share))
            hits = np.arange(drawn + 1)
            rule = plan(drawn + 1, looked, selection, radii, pilot=pilot)
            rule.chosen[:] = 1
            stops = rule.ended(hits, number, two_classes(hits, drawn))
            wrong = (floored(rule.best) >= min(fails)) & (rule.best > 0)
            failed, alive, before = failed + alive[wrong].sum(), np.where(wrong | stops, 0, alive), drawn
        assert failed <= ALPHA
        total += chosen[pilot] * failed
    assert total > 0


def claims_above(share, trials, alpha):
    """P[the randomized bound exceeds this share] when it is the true one, over all hits and all uniform numbers."""
    hits = np.arange(trials + 1)
    always, ever = (randomized_lower(hits, trials, alpha, number) > share for number in (1.0, 0.0))
    failed = float(stats.binom.pmf(hits[always], trials, share).sum())
    for some in hits[ever & ~always]:  # the bound falls in the number: find where it passes `share`
        low, high = 0.0, 1.0
        while high - low > 1e-10:
            middle = (low + high) / 2
            over = randomized_lower(some, trials, alpha, middle) > share
            low, high = (middle, high) if over else (low, middle)
        failed += float(stats.binom.pmf(some, trials, share)) * low
    return failed


@pytest.mark.parametrize("trials", [1, 20, 300])
def test_the_randomized_bound_fails_with_alpha_exactly(trials):
    cap = 0.5 ** (1 / trials)
    for share in (0.02, 0.3, 0.5, 0.6, 0.8413, 0.9, 0.97725, 0.99, 0.9987):
        failed = claims_above(share, trials, ALPHA)
        assert failed == pytest.approx(ALPHA if share < cap else 0, abs=1e-9)
        fixed = stats.binom.pmf(np.arange(trials + 1), trials, share)[
            lower(np.arange(trials + 1), trials, ALPHA) > share
        ]
        assert fixed.sum() <= failed + 1e-12 or share >= cap


def test_the_randomized_bound_is_the_other_one_at_one_and_larger_below():
    hits = np.array([0, 1, 50, 90, 99, 100])
    assert randomized_lower(hits, 100, ALPHA, 1.0) == pytest.approx(lower(hits, 100, ALPHA), abs=1e-14)
    assert randomized_lower(hits[:-1], 100, ALPHA, 0.0) == pytest.approx(lower(hits[:-1] + 1, 100, ALPHA), abs=1e-14)
    assert randomized_lower(100, 100, ALPHA, [0.5, 0.0]) == pytest.approx([0.02**0.01, 0.5**0.01])
    each = randomized_lower(hits[:, None], 100, ALPHA, np.linspace(0, 1, 9))
    assert (np.diff(each, axis=1) <= 0).all()
    assert (np.diff(each, axis=0) >= 0).all()


def test_the_verifier_finds_the_same_randomized_bounds():
    for drawn, cap in ((1, 0.5), (100_000, 0.5**1e-5)):
        for uniform in (0.0, 0.0004, 0.3):
            hits = np.array([0, 1, drawn // 2, drawn - drawn // 1000, drawn])
            rule = Stopping(radius, 0.001, 1, 5, 100, (drawn,), bound="randomized", uniform=np.full((1, 5), uniform))
            mine = rule.bounds(np.zeros(1, np.int64), hits[None], 0)[0]
            assert look_bounds(rule, 0, hits, []) == pytest.approx(mine, rel=1e-9, abs=1e-12)
            assert mine.max() <= cap


def two_classes(hits, drawn):
    return np.stack([drawn - hits, hits], 1)[:, None]


@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.8, 0.8), (0.99, 0.6), (0.95, 0.3), (0.7, 0.45)])
@pytest.mark.parametrize("looked", [(150,), (40, 80, 150)])
def test_two_halves_claim_too_much_no_more_often_than_alpha(p, q, looked):
    """The same for the sum rule, over the hits of both halves."""
    both = Dual(None, None, Gaussian(1.0))
    true = float(both.radius(np.array([p, q])))
    alive, failed, before = np.ones((1, 1)), 0.0, 0
    for number, drawn in enumerate(looked):
        new = drawn - before
        steps = [stats.binom.pmf(np.arange(new + 1), new, share) for share in (p, q)]
        alive = signal.convolve2d(alive, np.outer(*steps))
        hits = np.stack(np.meshgrid(np.arange(drawn + 1), np.arange(drawn + 1), indexing="ij"), 2).reshape(-1, 2)
        rule = Stopping(both.radius, ALPHA, len(hits), 2, 100, looked)
        rule.chosen[:], rule.pilot[:] = 1, np.round(100 * np.array([p, q]))
        rule.ended(np.arange(len(hits)), number, np.stack([drawn - hits, hits], 2))
        wrong = (rule.best > true).reshape(alive.shape)
        failed, alive, before = failed + alive[wrong].sum(), np.where(wrong, 0, alive), drawn
    assert failed <= ALPHA
    assert failed > 0 or true < 0


def test_the_released_rule_for_two_halves_fails_almost_always():
    """The root of the sum of squares, alpha for each half, and halves below one half counted as zero."""
    p, q, n = 0.99, 0.6, 1000
    hits = np.arange(n + 1)
    reach = np.maximum(0, stats.norm.ppf(lower(hits, n, ALPHA)))
    claims = np.hypot(reach[:, None], reach[None, :]) > (stats.norm.ppf(p) + stats.norm.ppf(q)) / np.sqrt(2)
    chance = np.outer(stats.binom.pmf(hits, n, p), stats.binom.pmf(hits, n, q))
    assert chance[claims].sum() > 0.9


@pytest.mark.parametrize("samples", [20, 100, 1000])
@pytest.mark.parametrize("share", [0.5, 0.501, 0.6, 0.9, 0.99])
def test_choosing_by_the_same_votes_costs_half_of_alpha(samples, share):
    """As it runs: both classes may be chosen, and each is claimed too much of where its bound is above its share."""
    hits = np.arange(samples + 1)
    rule = plan(samples + 1, (samples,), selection=0)
    rule.ended(hits, 0, two_classes(hits, samples))
    true = radius(np.where(rule.chosen == 1, share, 1 - share)[:, None])
    wrong = (rule.best > true) & (rule.best > 0)
    assert stats.binom.pmf(hits[wrong], samples, share).sum() <= ALPHA


@pytest.mark.parametrize("samples", [20, 100, 1000])
@pytest.mark.parametrize("shares", [(0.49, 0.49, 0.02), (0.2,) * 5, (0.34, 0.33, 0.33), (0.501, 0.499)])
def test_so_it_does_with_many_classes(samples, shares):
    hits = np.arange(samples + 1)
    bound = lower(hits, samples, plan(1, (samples,), selection=0).share(0))
    failed = sum(stats.binom.pmf(hits[bound > max(p, 0.5)], samples, p).sum() for p in shares)
    assert failed <= ALPHA


def test_looks_end_with_the_budget():
    assert looks(1000, 100, 1.5) == (100, 150, 225, 338, 507, 761, 1000)
    assert len(looks(100_000, 100, 1.5)) == 19
    assert looks(50, 100, 2.0) == (50,)


def test_the_shares_of_all_looks_make_up_alpha():
    for looked, selection in (((500,), 100), (looks(1000, 100, 1.5), 100), ((500,), 0)):
        assert plan(1, (100, 500)).share(0) + plan(1, (100, 500)).share(-1) == pytest.approx(ALPHA)
        rule = plan(1, looked, selection, bound="union")
        spent = sum(rule.share(look) for look in range(len(looked)))
        assert spent == pytest.approx(ALPHA if selection else ALPHA / 2)
        assert rule.share(-1) == rule.share(len(looked) - 1)


def test_thresholds_do_not_fall_as_draws_rise():
    for bound in ("sequence", "union"):
        rule = plan(1, looks(5000, 100, 1.5), bound=bound)
        for share in (0.5, 0.9, 0.99):
            every = [rule.bounds(np.zeros(n + 1, int), np.arange(n + 1)[:, None], j) for j, n in enumerate(rule.looks)]
            least = [int((found <= share).sum()) for found in every[:-1]]
            assert least == sorted(least)


def test_an_image_is_given_up_only_where_it_could_not_have_been_certified():
    looked = looks(1000, 100, 1.5)
    rule = plan(101, looked, radii=(1.0,), pilot=84)
    rule.pilot[100] = 100
    rule.chosen[:] = 1
    hits = np.arange(101)
    ended = rule.ended(hits, 0, np.stack([100 - hits, hits], 1)[:, None])
    words = rule.why
    assert words[100] == "certified"
    assert floored(rule.best)[100] >= 1.0
    assert set(words[:70]) == {"futility"}
    assert set(words[~ended]) == {"budget"}
    assert (hits[words == "futility"] / 100 < 0.8413).all()


def test_clopper_pearson():
    k, n = np.arange(51), 50
    assert np.allclose(lower(k, n, 0.01), [stats.beta.ppf(0.01, a, n - a + 1) if a else 0 for a in k], atol=1e-12)
    assert np.allclose(upper(k, n, 0.01), [stats.beta.ppf(0.99, a + 1, n - a) if a < n else 1 for a in k], atol=1e-12)
    assert lower(100, 100, 0.001) == pytest.approx(0.001**0.01, abs=1e-12)
    golden = {(99_300, 100_000): 0.992147, (990, 1000): 0.976036, (1000, 1000): 0.993116, (100, 100): 0.933254}
    for (hits, trials), value in golden.items():
        assert float(lower(hits, trials, 0.001)) == pytest.approx(value, abs=5e-7)
    caps = {100: 1.500, 1000: 2.463, 10_000: 3.199, 100_000: 3.8115}
    for trials, cap in caps.items():
        assert float(radius(lower(np.array([trials]), trials, 0.001))) == pytest.approx(cap, abs=6e-4)


def test_binomial_tests():
    assert float(even(66, 34)) == pytest.approx(0.00179, abs=5e-6)
    assert float(even(67, 33)) == pytest.approx(0.00087, abs=5e-6)
    assert float(even(60, 40)) == pytest.approx(0.0569, abs=5e-5)
    assert float(even(5, 5)) == 1.0
    assert float(tail(3, 10, 0.2)) == pytest.approx(stats.binom.sf(2, 10, 0.2))
    assert most(1000, 0.001, 1e-3) == stats.binom.ppf(1 - 1e-3, 1000, 0.001)
    assert most(10, 0.0, 1e-3) == 0


@given(st.integers(1, 400), st.integers(1, 400), st.floats(1e-4, 0.2), st.floats(0.05, 2))
@settings(max_examples=60, deadline=None)
def test_radii_grow_with_hits_and_draws_and_noise_and_shrink_with_certainty(k, more, alpha, sigma):
    n = 400
    share = lower(np.array([k - 1, k]), n, alpha)
    assert share[0] < share[1]
    assert lower(k, n, alpha / 2) < lower(k, n, alpha)
    assert lower(k * (more + 1), n * (more + 1), alpha) >= share[1] - 1e-12
    if share[1] > 0.5:
        assert Gaussian(2 * sigma).radius(share[1:]) == pytest.approx(2 * Gaussian(sigma).radius(share[1:]))
    down = floored(Gaussian(sigma).radius(share[1:]))
    assert 0 <= down <= max(0, Gaussian(sigma).radius(share[1:])[0])

"""The guarantee: exact p-values against simulation and enumeration, and a level that holds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, multinomial

from rdnlib.calibration.guarantee import _tail, gap_p_value
from rdnlib.calibration.multiplier import calibrate, choose, saved_fraction
from rdnlib.errors import InfeasibleError

BETA = 0.01


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 14), st.integers(-14, 14), st.floats(0, 0.4), st.floats(0, 0.2))
def test_the_tail_equals_the_sum_over_all_tables(n, difference, h, gap):
    tables = [(a, b) for a in range(n + 1) for b in range(n + 1 - a) if a - b <= difference]
    slow = sum(multinomial.pmf([a, b, n - a - b], n, [h + gap, h, 1 - 2 * h - gap]) for a, b in tables)
    assert _tail(difference, n, h, gap) == pytest.approx(slow, abs=1e-9)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(20, 3000), st.floats(0, 0.1), st.floats(0, 0.1), st.floats(0.001, 0.05), st.floats(0, 1))
def test_no_probability_below_the_bound_has_a_larger_tail(n, harmed, helped, gap, where):
    """The five points that are tried hold the worst case, wherever rejection is at stake."""
    harmed, helped = round(harmed * n), round(helped * n)
    p = gap_p_value(harmed, helped, n, gap, BETA)
    if p < 0.5:
        upper = next(h for h in np.linspace(0, 1, 20001) if binom.cdf(helped, n, h) <= BETA)
        assert _tail(harmed - helped, n, where * (upper - 1e-4), gap) + BETA <= p + 1e-3


@pytest.mark.parametrize(("helps", "gap"), [(0.0, 0.05), (0.03, 0.02), (0.1, 0.02)])
def test_a_policy_that_loses_the_gap_is_rarely_certified(helps, gap):
    """At the edge of the hypothesis the p-value may not fall below δ more often than δ."""
    rng, n, delta = np.random.default_rng(0), 400, 0.1
    counts = rng.multinomial(n, [helps + gap, helps, 1 - 2 * helps - gap], size=2000)
    known = {pair: gap_p_value(*pair, n, gap, 0.1 * delta) for pair in {(a, b) for a, b, _ in counts.tolist()}}
    rejected = np.mean([known[a, b] <= delta for a, b, _ in counts.tolist()])
    assert rejected <= delta + 0.02
    assert rejected > 0.02  # and it is not so careful as to be useless


def paired_case(n, seed):
    rng = np.random.default_rng(seed)
    ease = rng.normal(1, 2, (n, 1))
    p = 1 / (1 + np.exp(-ease - np.array([-0.6, 0.2, 0.3])))
    return p, rng.random((n, 1)) < p, saved_fraction([1, 2, 4])  # nested outcomes: few images change hands


def test_the_paired_guarantee_needs_fewer_images_than_the_absolute_one():
    p, correct, saved = paired_case(2000, 0)
    epsilon = 1 - correct[:, -1].mean() + 0.02
    paired = calibrate(p, correct, saved, 0.02, 0.1, paired=True)
    assert paired.lam < calibrate(p, correct, saved, epsilon, 0.1).lam
    assert paired.accuracy >= correct[:, -1].mean() - 0.02
    exits = choose(p, saved, paired.lam)
    assert paired.accuracy == correct[np.arange(2000), exits].mean()


def test_the_paired_guarantee_holds():
    p, _, saved = paired_case(4000, 1)
    truth = p.copy()
    truth[:, 0] -= 0.05 * np.sin(5 * p[:, 0]) ** 2  # the policy is not quite right
    broken = certified = 0
    rng, gap, delta = np.random.default_rng(2), 0.02, 0.1
    for _ in range(150):
        who = rng.integers(0, len(p), 400)
        correct = rng.random((400, 1)) < truth[who]
        try:
            lam = calibrate(p[who], correct, saved, gap, delta, paired=True).lam
        except InfeasibleError:
            continue
        certified += 1
        broken += truth[np.arange(len(p)), choose(p, saved, lam)].mean() < truth[:, -1].mean() - gap
    assert certified > 75
    assert broken <= delta * 150


def test_an_impossible_gap_says_what_would_be_needed():
    p = np.tile([0.5, 0.9], (50, 1))
    correct = np.ones((50, 2), dtype=bool)
    with pytest.raises(
        InfeasibleError, match=r"loss of at most 0\.0100 against N_K.*loses 0\.0000.*about \d+ samples"
    ) as e:
        calibrate(p, correct, saved_fraction([1, 2]), 0.01, 0.1, paired=True)
    assert e.value.best == 1
    needed = int(str(e.value).split("about ")[1].split()[0])
    again = calibrate(
        np.tile(p, (needed // 50 + 1, 1)), np.tile(correct, (needed // 50 + 1, 1)), [0.5, 0], 0.01, 0.1, paired=True
    )
    assert again.lam >= 0 and math.isfinite(again.accuracy)
    wrong = correct.copy()
    wrong[:, 1] = False
    with pytest.raises(InfeasibleError, match="no number of samples"):
        calibrate(p[:, ::-1], wrong[:, ::-1], [0.5, 0], 0.01, 0.1, paired=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.floats(0, 0.3))
def test_p_values_are_probabilities_and_fall_with_the_gap(harmed, helped, gap):
    p = gap_p_value(harmed, helped, 200, gap, BETA)
    assert BETA <= p <= 1
    assert gap_p_value(harmed, helped, 200, gap + 0.05, BETA) <= p + 1e-9

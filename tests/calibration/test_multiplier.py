import contextlib
import math
import time
import tracemalloc
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.policies import any_floats, exits_of, measured

from rdnlib.calibration.multiplier import Calibration, calibrate, choose, saved_fraction, sweep
from rdnlib.errors import ConfigError, InfeasibleError

SAVED = saved_fraction([1, 2, 4])


def assert_row(row, expected, atol=1e-12):
    accuracy, saved, share = expected
    assert row.accuracy == pytest.approx(accuracy, abs=atol)
    assert row.saved == pytest.approx(saved, abs=atol)
    np.testing.assert_allclose(row.filter(like="exit_").to_numpy(float), share, atol=atol)


@st.composite
def on_a_grid(draw):
    """p in sixteenths and r in 64ths: floating point is exact, ties and duplicates abound."""
    k, n = draw(st.integers(1, 9)), draw(st.integers(1, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from([1, 2, 4, 16]))
    p = rng.integers(0, steps + 1, (n, k)) * (16 // steps)  # in sixteenths
    saved = np.append(np.sort(rng.choice(np.arange(1, 65), k - 1, replace=False))[::-1], 0)  # in 64ths
    return p, rng.random((n, k)) < 0.6, saved


def exact_choice(p, saved, numerator, denominator):
    """argmax_v (r_v + λ) p_v in integers; λ = numerator/denominator, p in sixteenths, r in 64ths."""
    return ((saved * denominator + 64 * numerator) * p).argmax(axis=1)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(on_a_grid())
def test_sweep_equals_brute_force_in_exact_arithmetic(case):
    p, correct, saved = case
    breakpoints = {
        Fraction(int(saved[i] * a[i] - saved[j] * a[j]), int(64 * (a[j] - a[i])))
        for a in np.unique(p, axis=0)
        for i in range(len(saved))
        for j in range(len(saved))
        if a[j] > a[i]
    }
    cuts = sorted({Fraction(0)} | {value for value in breakpoints if value >= 0})
    inside = [(a + b) / 2 for a, b in pairwise(cuts)] + [cuts[-1] + 1]
    policies = [(0.0, exact_choice(p, saved, 0, 1))]
    for cut, middle in zip(cuts, inside, strict=True):
        exits = exact_choice(p, saved, middle.numerator, middle.denominator)
        if (exits != policies[-1][1]).any():
            policies.append((float(cut), exits))

    frame = sweep(p / 16, correct, saved / 64)
    np.testing.assert_allclose(frame.lam, [lam for lam, _ in policies], rtol=1e-12, atol=1e-300)
    for (_, row), (_, exits) in zip(frame.iterrows(), policies, strict=True):
        assert_row(row, measured(exits, correct, saved / 64))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(any_floats())
def test_rows_agree_with_choose_between_and_after_the_breakpoints(case):
    p, correct, saved = case
    frame = sweep(p, correct, saved, madds=np.arange(1, len(saved) + 1))
    lam = frame.lam.to_numpy()
    assert lam[0] == 0
    assert (np.diff(lam) > 0).all()
    middles = np.append((lam[:-1] + lam[1:]) / 2, 2 * lam[-1] + 1)
    clear = np.append(np.diff(lam) > 1e-7 * (1 + lam[1:]), lam[-1] < 1e7)  # wider than rounding in (r + λ) p
    for row in np.flatnonzero(clear):
        assert_row(frame.iloc[row], measured(choose(p, saved, middles[row]), correct, saved))
    assert_row(frame.iloc[0], measured(choose(p, saved, 0), correct, saved))
    assert_row(frame.iloc[-1], measured(choose(p, saved, math.inf), correct, saved))
    np.testing.assert_allclose(frame.madds, exits_of(frame) @ np.arange(1, len(saved) + 1))
    assert (np.diff(frame.saved) <= 1e-12).all()  # exits only move to dearer sub-networks


def test_a_curve_worked_out_by_hand():
    # r = (3/4, 1/2, 0). First sample: lines 0.375 + 0.5λ, 0.4 + 0.8λ, 1·λ: N_2 until 0.4 + 0.8λ = λ, λ = 2.
    # Second: 0.75 + λ against 0.5 + λ and λ: always N_1.
    frame = sweep([[0.5, 0.8, 1.0], [1, 1, 1]], [[True, False, True], [True, True, True]], SAVED, madds=[1, 2, 4])
    np.testing.assert_allclose(frame.lam, [0, 2])
    np.testing.assert_allclose(frame.accuracy, [0.5, 1])
    np.testing.assert_allclose(frame.saved, [(0.5 + 0.75) / 2, 0.75 / 2])
    np.testing.assert_allclose(frame.madds, [1.5, 2.5])
    np.testing.assert_array_equal(exits_of(frame), [[0.5, 0.5, 0], [0.5, 0, 0.5]])
    assert list(frame) == ["lam", "accuracy", "saved", "madds", "exit_1", "exit_2", "exit_3"]


@pytest.mark.slow
def test_imagenet_sized_sweep_is_fast_and_small():
    rng = np.random.default_rng(0)
    n, k = 1_281_167, 7
    ease = rng.random((n, 1), dtype=np.float32)
    p = 1 / (1 + np.exp(1 - 4 * ease - np.linspace(0, 1, k, dtype=np.float32) - rng.random((n, k), dtype=np.float32)))
    correct = rng.random((n, k), dtype=np.float32) < p
    saved = saved_fraction(np.arange(1, k + 1))
    start = time.process_time()
    frame = sweep(p, correct, saved, max_points=2000)
    assert time.process_time() - start <= 3  # one thread: the wall time of an idle machine
    assert len(frame) == 2000
    assert_row(frame.iloc[1000], measured(choose(p, saved, frame.lam[1000]), correct, saved), atol=3 / n)
    tracemalloc.start()
    sweep(p, correct, saved, max_points=2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak + p.nbytes + correct.nbytes <= 2e9


def test_ties_go_to_the_cheaper_sub_network():
    assert choose([[0, 0, 0], [0.5, 0.5, 0.5]], SAVED, math.inf).tolist() == [0, 0]
    assert choose([[0.0, 0.0, 1.0]], SAVED, 0).tolist() == [0]  # three zeros at λ = 0, N_3 above
    frame = sweep([[0.0, 0.0, 1.0]], [[False, False, True]], SAVED)
    assert frame.accuracy.tolist() == [0, 1]
    assert 0 < frame.lam[1] < 1e-300


def test_max_points_keeps_exact_rows_and_both_ends():
    p, correct, saved = random_case(500, 5)
    everything = sweep(p, correct, saved)
    few = sweep(p, correct, saved, max_points=40)
    assert len(few) == 40
    same = everything[everything.lam.isin(few.lam)].reset_index(drop=True)
    np.testing.assert_array_equal(few, same)
    assert few.lam.iloc[-1] == everything.lam.iloc[-1]
    assert len(sweep(p, correct, saved, max_points=10**6)) == len(everything)


def random_case(n, k, seed=0):
    """Policy-like probabilities with labels drawn from them."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(1, 2, (n, 1))
    p = 1 / (1 + np.exp(-(ease + np.linspace(-0.5, 0.7, k) + 0.3 * rng.normal(size=(n, k)))))
    return p, rng.random((n, k)) < p, saved_fraction(np.arange(1, k + 1))


def test_lines_through_one_point_do_not_step_back():
    """All K lines of a sample meet in one point, where rounding decides their order: no share may become negative."""
    rng = np.random.default_rng(0)
    saved = saved_fraction(np.arange(1, 8))
    meet = rng.uniform(0.1, 5, (300, 1))
    p = 0.1 * rng.uniform(0.5, 1, (300, 1)) / (saved + meet)  # the same height (r_v + λ) p_v for every v at λ = meet
    for row in p:
        shares = exits_of(sweep(row[None], np.ones((1, 7), bool), saved))
        np.testing.assert_array_equal(np.sort(shares, axis=1)[:, -2:], [[0, 1]] * len(shares))
        assert (np.diff(shares.argmax(axis=1)) > 0).all()


@settings(max_examples=100, deadline=None)
@given(any_floats(), st.floats(0, 0.99))
def test_calibrate_is_the_smallest_lambda_that_reaches_the_target(case, epsilon):
    p, correct, saved = case
    frame = sweep(p, correct, saved)
    good = frame[frame.accuracy >= 1 - epsilon - 1e-12]
    if good.empty:
        with pytest.raises(InfeasibleError, match=f"the best is {frame.accuracy.max():.4f}"):
            calibrate(p, correct, saved, epsilon)
        return
    result = calibrate(p, correct, saved, epsilon)
    accuracy, spared, share = measured(choose(p, saved, result.lam), correct, saved)
    assert result.accuracy == accuracy >= 1 - epsilon - 1e-12
    assert result.saved == pytest.approx(spared)
    np.testing.assert_allclose(result.exits, share)
    # not before its row, and well before the next one, unless rounding blurs an interval
    first = good.index[0]
    later = frame.lam[frame.lam > frame.lam[first] + 1e-7 * (1 + frame.lam[first])]
    assert frame.lam[first] <= result.lam <= (later.iloc[0] if len(later) else math.inf)


def test_accuracy_is_not_monotone_and_the_first_lambda_is_meant():
    # N_2 is right on the first sample (reached at λ = 0.5·0.6/0.2 = 1.5), then N_2 is wrong on two others.
    saved = saved_fraction([1, 2])
    p = np.array([[0.6, 0.8], [0.6, 0.7], [0.6, 0.7]])
    correct = np.array([[False, True], [True, False], [True, False]])
    frame = sweep(p, correct, saved)
    np.testing.assert_allclose(frame.lam, [0, 1.5, 3])
    np.testing.assert_allclose(frame.accuracy, [2 / 3, 1, 1 / 3])
    assert calibrate(p, correct, saved, 0.0).lam == pytest.approx(1.5)
    assert calibrate(p, correct, saved, 0.4).lam == 0


def test_the_target_may_be_a_measured_accuracy():
    p, correct, saved = random_case(777, 5)
    for accuracy in sweep(p, correct, saved).accuracy:
        assert calibrate(p, correct, saved, 1 - accuracy).accuracy >= accuracy


def test_calibrate_reports_madds_and_is_frozen():
    p, correct, saved = random_case(200, 3)
    result = calibrate(p, correct, saved, 0.4, madds=[10, 20, 40])
    assert result.madds == pytest.approx(np.dot(result.exits, [10, 20, 40]))
    assert calibrate(p, correct, saved, 0.4).madds is None
    assert isinstance(result, Calibration)
    with pytest.raises(AttributeError):
        result.lam = 0


def test_the_guarantee_covers_and_the_naive_choice_does_not():
    """Correctness is drawn from known probabilities (not quite the policy's): the true accuracy of any λ is known."""
    rng = np.random.default_rng(0)
    p, _, saved = random_case(3000, 4, seed=1)
    truth = np.clip(p + 0.1 * np.sin(9 * p) - 0.03, 0, 1)

    def true_accuracy(lam):
        return truth[np.arange(len(p)), choose(p, saved, lam)].mean()

    target, delta = true_accuracy(math.inf) - 0.07, 0.1
    safe, naive = [], []
    for _ in range(300):
        who = rng.integers(0, len(p), 250)
        correct = rng.random((250, 4)) < truth[who]
        for found, level in ((naive, None), (safe, delta)):
            with contextlib.suppress(InfeasibleError):  # it promises nothing
                found.append(true_accuracy(calibrate(p[who], correct, saved, 1 - target, level).lam))
    assert len(safe) > 150
    assert sum(accuracy < target for accuracy in safe) <= delta * 300
    assert sum(accuracy < target for accuracy in naive) > 3 * delta * 300


def test_the_guarantee_tightens_with_samples():
    p, correct, saved = random_case(20000, 4)
    epsilon = 1 - sweep(p, correct, saved).accuracy.max() + 0.03
    few = calibrate(p[:4000], correct[:4000], saved, epsilon, 0.1)
    many = calibrate(p, correct, saved, epsilon, 0.1)
    naive = calibrate(p, correct, saved, epsilon)
    assert naive.lam < many.lam < few.lam
    assert many.accuracy > 1 - epsilon


def test_infeasible_with_a_guarantee_says_how_many_samples_are_needed():
    p = np.tile([0.5, 0.9], (20, 1))
    correct = np.ones((20, 2), dtype=bool)
    saved = saved_fraction([1, 2])
    # all right: 0.95^n ≤ 0.1 needs n = 45
    with pytest.raises(InfeasibleError, match=r"reaches 1\.0000 on these 20 samples.* about 4[5-6] samples") as caught:
        calibrate(p, correct, saved, 0.05, 0.1)
    assert "\n" not in str(caught.value)
    assert calibrate(np.tile(p, (3, 1)), np.tile(correct, (3, 1)), saved, 0.05, 0.1).accuracy == 1
    with pytest.raises(InfeasibleError, match="no number of samples"):
        calibrate(p, correct, saved, 0.0, 0.1)
    with pytest.raises(InfeasibleError, match="no number of samples"):
        calibrate(p, ~correct, saved, 0.05, 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": [[0.1, np.nan, 0.3]]}, "NaN"),
        ({"p": [[0.1, 0.2, 1.1]]}, r"\[0, 1\]"),
        ({"p": [[-0.1, 0.2, 1.0]]}, r"\[0, 1\]"),
        ({"p": [0.1, 0.2, 0.3]}, "must be"),
        ({"p": np.empty((0, 3)), "correct": np.empty((0, 3), bool)}, "no samples"),
        ({"correct": [[True, False]]}, "shape"),
        ({"correct": [[0.5, 0, 1]]}, "true and false"),
        ({"correct": [[np.nan, 0, 1]]}, "true and false"),
        ({"saved": [0.5, 0.5, 0]}, "decrease"),
        ({"saved": [0.5, 0.2, 0.1]}, "decrease"),
        ({"saved": [1.5, 0.2, 0]}, "decrease"),
        ({"saved": [np.nan, 0.2, 0]}, "decrease"),
        ({"saved": [0.5, 0]}, "must be"),
        ({"madds": [1, 2]}, "3 finite"),
        ({"madds": [1, 2, np.nan]}, "3 finite"),
        ({"epsilon": 1}, "ε"),
        ({"epsilon": -0.1}, "ε"),
        ({"epsilon": math.nan}, "ε"),
        ({"delta": 0}, "δ"),
        ({"delta": 1.0}, "δ"),
        ({"delta": math.nan}, "δ"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    case = {"p": [[0.1, 0.2, 0.3]], "correct": [[True, False, True]], "saved": SAVED, "epsilon": 0.1} | change
    with pytest.raises(ConfigError, match=message) as caught:
        calibrate(**case)
    assert "\n" not in str(caught.value)
    if not {"epsilon", "delta"} & set(change):
        case.pop("epsilon")
        with pytest.raises(ConfigError, match=message):
            sweep(**case)


@pytest.mark.parametrize("lam", [-1, math.nan, -math.inf])
def test_lambda_out_of_range(lam):
    with pytest.raises(ConfigError, match="λ"):
        choose([[0.5, 0.6, 0.7]], SAVED, lam)
    with pytest.raises(ConfigError, match="max_points"):
        sweep([[0.5, 0.6, 0.7]], [[True, True, True]], SAVED, max_points=0)


@settings(max_examples=60, deadline=None)
@given(any_floats(), st.floats(0, 0.99))
def test_binary_search_reaches_the_target_but_perhaps_later(case, epsilon):
    p, correct, saved = case
    frame = sweep(p, correct, saved)
    if frame.accuracy.iloc[-1] < 1 - epsilon - 1e-12:  # it begins at λ = ∞
        with pytest.raises(InfeasibleError, match=r"binary search|no λ"):
            calibrate(p, correct, saved, epsilon, method="bisection")
        return
    first = calibrate(p, correct, saved, epsilon)
    found = calibrate(p, correct, saved, epsilon, method="bisection")
    assert found.accuracy >= 1 - epsilon - 1e-12
    assert found.lam >= first.lam
    assert found.saved <= first.saved + 1e-12
    if (np.diff(frame.accuracy) >= 0).all():
        assert found == first


def test_where_the_binary_search_and_the_first_lambda_differ():
    # Of five images 2, 3, 2, 1, 2, 3 are right as λ grows: the search halves its way to the last rise.
    saved = saved_fraction([1, 2])
    p = np.array([[0.6, 0.8], [0.6, 0.75], [0.6, 0.7], [0.6, 0.68], [0.6, 0.66]])
    correct = np.array([[False, True], [True, False], [True, False], [False, True], [False, True]])
    frame = sweep(p, correct, saved)
    np.testing.assert_allclose(5 * frame.accuracy, [2, 3, 2, 1, 2, 3])
    first = calibrate(p, correct, saved, 0.4)
    searched = calibrate(p, correct, saved, 0.4, method="bisection")
    assert (first.lam, searched.lam) == (pytest.approx(frame.lam[1]), pytest.approx(frame.lam[5]))
    assert searched.saved < first.saved
    # and where λ = ∞ misses what an earlier λ reaches, the search gives up
    with pytest.raises(InfeasibleError, match=r"begins at λ = ∞.*use method='first'") as caught:
        calibrate(p[:2], correct[:2], saved, 0.0, method="bisection")
    assert caught.value.best == 1
    assert calibrate(p[:2], correct[:2], saved, 0.0).accuracy == 1
    with pytest.raises(ConfigError, match="method must be one of"):
        calibrate(p, correct, saved, 0.4, method="guess")


def test_paired_is_the_same_as_asking_for_that_accuracy():
    p, correct, saved = random_case(400, 4)
    for gap in (0.0, 0.01, 0.05):
        epsilon = 1 - correct[:, -1].mean() + gap
        assert calibrate(p, correct, saved, gap, paired=True) == calibrate(p, correct, saved, epsilon)


def test_saved_fraction():
    np.testing.assert_allclose(saved_fraction([1, 2, 4]), [0.75, 0.5, 0])

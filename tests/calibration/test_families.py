"""Policy families: each family against the obvious way to find its cheapest member."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.policies import any_floats, measured

from rdnlib.calibration.families import (
    ByLambda,
    ByThreshold,
    Mix,
    OneForAll,
    calibrate_and_apply,
    calibrate_or_best,
    calibrate_to,
    margin,
)
from rdnlib.calibration.multiplier import saved_fraction
from rdnlib.errors import InfeasibleError

MADDS = np.array([1.0, 2.0, 4.0])


@st.composite
def outcomes(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.random((draw(st.integers(1, 60)), 3)) < [0.5, 0.6, 0.7], rng


@settings(max_examples=100, deadline=None)
@given(outcomes(), st.floats(0, 1))
def test_one_for_all_is_the_cheapest_that_reaches_the_target(case, target):
    correct, _ = case
    good = [v for v in range(3) if correct[:, v].mean() >= target - 1e-12]
    family = OneForAll(correct, MADDS)
    if not good:
        with pytest.raises(InfeasibleError, match=f"the best is {correct.mean(axis=0).max():.4f}"):
            family.reach(target)
        return
    assert family.reach(target) == good[0]
    right, spent = family.take(good[0])
    assert (right == correct[:, good[0]]).all() and (spent == MADDS[good[0]]).all()


@settings(max_examples=100, deadline=None)
@given(outcomes(), st.booleans())
def test_the_curve_of_some_samples_is_the_curve_of_these_alone(case, by_lambda):
    correct, rng = case
    p = rng.choice([0.2, 0.5, 0.5 + 1e-9, 0.9], size=correct.shape)  # with ties
    family = (
        ByLambda(p, correct, np.array([0.7, 0.4, 0]), MADDS) if by_lambda else ByThreshold(p[:, 1:], correct, MADDS)
    )
    rows = rng.permutation(len(correct))[: rng.integers(1, len(correct) + 1)]
    twice = rng.permutation(len(rows))[: rng.integers(1, len(rows) + 1)]
    whole = family.exact()
    for part, numbers in ((whole.of(rows), rows), (whole.of(rows).of(twice), rows[twice])):
        pd.testing.assert_frame_equal(part.table("x", cost=MADDS), family.rows(numbers).exact().table("x", cost=MADDS))


@settings(max_examples=100, deadline=None)
@given(outcomes(), st.floats(0, 1))
def test_a_mix_is_the_cheapest_of_all_pairs_and_shares(case, target):
    correct, _ = case
    accuracy, family = correct.mean(axis=0), Mix(correct, MADDS)
    if accuracy.max() < target:
        with pytest.raises(InfeasibleError):
            family.reach(target)
        return
    right, spent = family.take(family.reach(target))
    assert right.mean() >= target - 1e-9
    best = np.inf
    for a, b in itertools.product(range(3), range(3)):
        for share in np.linspace(0, 1, 201):
            if (1 - share) * accuracy[a] + share * accuracy[b] >= target - 1e-12:
                best = min(best, (1 - share) * MADDS[a] + share * MADDS[b])
    assert best - 3 / 200 <= spent.mean() <= best + 1e-9


@settings(max_examples=100, deadline=None)
@given(outcomes(), st.integers(0, 2), st.integers(0, 2), st.floats(0, 1))
def test_no_mix_at_the_same_cost_is_right_more_often(case, a, b, share):
    correct, _ = case
    family = Mix(correct, MADDS)
    other, budget = (values.mean() for values in family.take((a, b, share)))
    right, spent = family.take(family.within(budget))
    assert spent.mean() == pytest.approx(budget) and right.mean() >= other - 1e-9


def test_a_budget_outside_of_the_costs_takes_the_nearest_network():
    family = Mix(np.eye(3, dtype=bool), MADDS)
    assert [family.take(family.within(budget))[1][0] for budget in (0.5, 9)] == [1, 4]


@settings(max_examples=100, deadline=None)
@given(outcomes(), st.floats(0, 1), st.booleans())
def test_thresholds_equal_a_loop_over_samples(case, target, negative):
    correct, rng = case
    above = rng.choice([-0.5 if negative else 0.1, 0.1, 0.4, 0.8, np.inf], (len(correct), 2))
    family = ByThreshold(above, correct, MADDS)

    def loop(value):
        exits = []
        for row in above:
            v = 0
            while v < 2 and value > row[v]:
                v += 1
            exits.append(v)
        return np.array(exits)

    curve = family.curve()
    for row in curve.itertuples():
        exits = loop(row.threshold)
        right, spent = family.take(row.threshold)
        assert (right == correct[np.arange(len(exits)), exits]).all() and (spent == MADDS[exits]).all()
        assert row.accuracy == pytest.approx(right.mean()) and row.madds == pytest.approx(spent.mean())
    assert len(curve) == len({tuple(loop(value)) for value in (0, 0.2, 0.5, 0.9, np.inf)})
    good = curve[curve["accuracy"] >= target - 1e-12]
    if good.empty:
        with pytest.raises(InfeasibleError) as caught:
            family.reach(target)
        assert caught.value.best == pytest.approx(curve["accuracy"].max())
    else:
        assert family.reach(target) == good["threshold"].iloc[0]


def test_a_family_that_cannot_reach_the_target_is_taken_at_its_best():
    correct = np.array([[True, False, True], [False, True, False]])
    family = OneForAll(correct, MADDS)
    right = np.ones(2, bool)
    outcome = calibrate_and_apply(family, family, right, 0.1)
    assert outcome.parameter == 0 and outcome.accuracy == 0.5
    assert "target 90.00 % not reachable" in outcome.note and "50.00 %" in outcome.note
    p = np.array([[0.9, 0.8, 0.7]] * 2)
    flat = ByLambda(p, correct, saved_fraction(MADDS), MADDS)
    assert "not reachable" in calibrate_and_apply(flat, flat, right, 0.1).note
    assert calibrate_and_apply(flat, flat, right, 0.5).note == ""


@settings(max_examples=100, deadline=None)
@given(outcomes(), st.floats(0, 1))
def test_calibrate_or_best_falls_back_to_the_best_reachable_accuracy(case, target):
    correct, rng = case
    p, saved = rng.random(correct.shape), saved_fraction(MADDS)
    for family in (
        ByLambda(p, correct, saved, MADDS),
        ByThreshold(p[:, :-1], correct, MADDS),
        OneForAll(correct, MADDS),
    ):
        parameter, best = calibrate_or_best(family, target)
        try:
            assert (parameter, best) == (family.reach(target), None)
        except InfeasibleError as error:
            assert best == error.best < target
            assert family.take(parameter)[0].mean() == pytest.approx(best)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(any_floats())
def test_a_cascade_equals_brute_force(case):
    confidence, correct, _ = case
    k = confidence.shape[1]
    madds = np.arange(1, k + 1) ** 2
    frame = ByThreshold(confidence[:, :-1], correct, madds).curve()
    thresholds = np.unique(np.concatenate([[0.0], np.nextafter(confidence[:, :-1].ravel().astype(float), 2)]))
    seen = []
    for threshold in thresholds:
        passed = confidence.astype(float) >= threshold
        passed[:, -1] = True
        exits = passed.argmax(axis=1)
        if not seen or (exits != seen[-1][1]).any():
            seen.append((threshold, exits))
    np.testing.assert_array_equal(frame.threshold, [threshold for threshold, _ in seen])
    for (_, row), (_, exits) in zip(frame.iterrows(), seen, strict=True):
        accuracy, cost, share = measured(exits, correct, madds)
        assert row.accuracy == pytest.approx(accuracy)
        assert row.madds == pytest.approx(cost)
        np.testing.assert_allclose(row.filter(like="exit_").to_numpy(float), share, atol=1e-12)


def population(seed, samples=947, quality=2.0):
    """A policy that guesses the probabilities of being right with some noise; N_K is right on about 78 %."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(1.2, 1.5, (samples, 1)) + np.array([0.0, 0.4, 0.7])
    correct = rng.random((samples, 3)) < 1 / (1 + np.exp(-ease))
    p = 1 / (1 + np.exp(-(ease + rng.normal(0, 1 / quality, (samples, 1)))))
    return ByLambda(p, correct, saved_fraction(MADDS), MADDS)


@pytest.mark.parametrize("gap", [0.0, 0.01, 0.03])
def test_the_margin_is_the_smallest_that_meets_the_target_over_the_folds(gap):
    family = population(1, samples=120)
    reference = family.correct[:, -1]
    order, totals = np.random.default_rng(5).permutation(120), []
    for aim in np.arange(0, 0.0401, 0.0025):
        totals.append(0.0)
        for fold in range(4):
            part, rest = order[fold * 30 : (fold + 1) * 30], np.delete(order, range(fold * 30, (fold + 1) * 30))
            fit = ByLambda(family.p[rest], family.correct[rest], family.saved, family.madds)
            lam, _ = calibrate_or_best(fit, reference[rest].mean() - gap + aim)
            exits = (
                ((family.saved + lam) * family.p[part]).argmax(axis=1) if np.isfinite(lam) else family.p[part].argmax(1)
            )
            totals[-1] += family.correct[part, exits].sum() - reference[part].sum() + 30 * gap
    enough = [index for index, total in enumerate(totals) if total >= -1e-9]
    expected = 0.0025 * (enough[0] if enough else 16)
    assert margin(family, reference, gap, folds=4, seed=5) == pytest.approx(expected)


@pytest.mark.slow
def test_with_its_margin_the_target_is_met_on_new_samples_without_it_it_is_not():
    """The mean over many calibration sets of 400 images, each judged on 20,000 others of the same population."""
    test = population(0, samples=20_000)
    wanted, missed = test.correct[:, -1].mean() - 0.02, []
    for seed in range(1, 61):
        family = population(seed, samples=400)
        full = family.correct[:, -1]
        plain, _ = calibrate_or_best(family, full.mean() - 0.02)
        careful, _ = calibrate_to(family, full, 0.02)
        missed.append([test.take(lam)[0].mean() - wanted for lam in (plain, careful)])
    plain, careful = 100 * np.mean(missed, axis=0)
    assert plain < -0.3
    assert abs(careful) < 0.3
    assert margin(population(1, samples=20), np.ones(20, bool), 0.0) == 0  # too few to say

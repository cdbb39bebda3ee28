"""Coverage of made-up outcomes whose probabilities are known."""

import numpy as np
import pytest

from rdnlib.calibration.coverage import coverage, shortfall, violations
from rdnlib.calibration.families import ByLambda, calibrate_or_best
from rdnlib.calibration.multiplier import choose, saved_fraction
from rdnlib.errors import ConfigError

SAVED = saved_fraction([1, 2, 4])


def case(n, seed=0):
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-rng.normal(1, 2, (n, 1)) - np.array([-0.5, 0.2, 0.6])))
    return p, rng.random((n, 1)) < p


def test_coverage_with_and_without_the_guarantee():
    p, correct = case(4000)
    epsilon = 1 - correct[:, -1].mean() + 0.04
    frame = coverage(p, correct, SAVED, epsilon, 0.1, samples=400, repeats=100)
    assert len(frame) == 200
    table = violations(frame).set_index("rule")
    assert table.loc["measured", "violations"] > 0.3
    assert table.loc["guaranteed", "violations_overall"] <= 0.1
    assert table.loc["guaranteed", "possible"] > 0.5
    row = frame.dropna().iloc[0]
    assert row["target"] == 1 - epsilon
    assert 0 < row["test"] < 1 and row["test"] != row["overall"]
    again = coverage(p, correct, SAVED, epsilon, 0.1, samples=400, repeats=3)
    assert again.equals(frame.head(6))


def test_paired_coverage_is_about_the_gap():
    p, correct = case(3000)
    frame = coverage(p, correct, SAVED, 0.03, 0.1, samples=600, repeats=30, paired=True)
    assert (frame["target"] == -0.03).all()
    assert frame["test"].abs().max() < 0.1
    assert violations(frame).set_index("rule").loc["guaranteed", "violations_overall"] <= 0.1


def test_an_impossible_target_is_not_violated():
    p, correct = case(300)
    frame = coverage(p, correct, SAVED, 0.001, 0.1, samples=100, repeats=5)
    assert frame["lam"].isna().all()
    assert (violations(frame)[["violations", "violations_overall", "possible"]] == 0).all(axis=None)


@pytest.mark.parametrize("samples", [0, 300, 400])
def test_both_parts_need_images(samples):
    p, correct = case(300)
    with pytest.raises(ConfigError, match="between 1 and 299"):
        coverage(p, correct, SAVED, 0.2, 0.1, samples=samples)


def test_shortfall_is_the_mean_miss_over_the_splits():
    rng = np.random.default_rng(3)
    p = rng.random((120, 3))
    correct = rng.random((120, 3)) < p
    madds = np.array([1.0, 2.0, 4.0])
    family = ByLambda(p, correct, 1 - madds / 4, madds)
    table = shortfall({"ours": family}, correct[:, -1], 0.05, samples=80, repeats=3, seed=1).set_index("rule")
    splits, misses = np.random.default_rng(1), []
    for _ in range(3):
        order = splits.permutation(120)
        chosen, others = order[:80], order[80:]
        fit = ByLambda(p[chosen], correct[chosen], family.saved, madds)
        lam, _ = calibrate_or_best(fit, correct[chosen, -1].mean() - 0.05)
        exits = choose(p[others], family.saved, lam)
        misses.append(correct[others, exits].mean() - correct[others, -1].mean() + 0.05)
    assert table.loc["without margin", "miss"] == pytest.approx(np.mean(misses))
    assert table.loc["without margin", "spread"] == pytest.approx(np.std(misses, ddof=1))
    assert table.loc["with margin", "miss"] >= table.loc["without margin", "miss"] - 0.02
    both = family.rows(np.arange(50)).joined(family.rows(np.arange(50, 120)))
    assert np.array_equal(both.p, p) and np.array_equal(both.correct, correct)
    with pytest.raises(ConfigError, match="between 1 and 119"):
        shortfall({"ours": family}, correct[:, -1], 0.05, samples=120)

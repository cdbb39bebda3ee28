"""Failure prediction and calibration of probabilities, each against its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdnlib.calibration.metrics import auroc, ece, quality, reliability, risk_coverage, risk_coverage_area
from rdnlib.errors import DataError


@st.composite
def scored(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 60))
    return rng.integers(0, draw(st.sampled_from([2, 5, 1000])), n) / 1000, rng.random(n) < draw(st.floats(0, 1))


@settings(max_examples=100, deadline=None)
@given(scored())
def test_auroc_is_the_share_of_pairs_in_the_right_order(case):
    score, correct = case
    pairs = [(a > b) + (a == b) / 2 for a in score[correct] for b in score[~correct]]
    assert auroc(score, correct) == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(scored())
def test_risk_coverage_equals_a_loop_over_thresholds(case):
    score, correct = case
    frame = risk_coverage(score, correct)
    for row, threshold in zip(frame.itertuples(), sorted(set(score), reverse=True), strict=True):
        trusted = score >= threshold
        assert row.coverage == pytest.approx(trusted.mean())
        assert row.risk == pytest.approx((~correct[trusted]).mean())
    assert frame["coverage"].iloc[-1] == 1


def test_area_under_risk_coverage():
    rng = np.random.default_rng(0)
    score, correct = rng.integers(0, 3, 12) / 3, rng.random(12) < 0.6
    areas = []
    for _ in range(4000):  # ties in random order
        order = np.lexsort([rng.random(12), -score])
        areas.append((np.cumsum(~correct[order]) / np.arange(1, 13)).mean())
    assert risk_coverage_area(score, correct) == pytest.approx(np.mean(areas), abs=0.005)
    assert risk_coverage_area([0.9, 0.5, 0.1], [True, True, False]) == pytest.approx(1 / 9)
    assert risk_coverage_area([0.1, 0.5, 0.9], [True, True, False]) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_honest_probabilities_have_no_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    correct = rng.random(200_000) < p
    assert ece(p, correct) < 0.01
    assert ece(p**2, correct) == pytest.approx(np.mean(p - p**2), abs=0.01)
    frame = reliability(p, correct, bins=10)
    np.testing.assert_allclose(frame["predicted"], frame["observed"], atol=0.01)
    assert frame["count"].sum() == 200_000
    assert len(reliability(p[:3], correct[:3])) == 3  # fewer samples than bins


def test_quality_has_a_row_per_subnetwork():
    rng = np.random.default_rng(0)
    p = rng.random((500, 3))
    correct = rng.random((500, 3)) < p
    table = quality(p, correct)
    assert list(table["subnetwork"]) == [1, 2, 3]
    assert table["auroc"][1] == auroc(p[:, 1], correct[:, 1])
    assert table["brier"][2] == pytest.approx(((p[:, 2] - correct[:, 2]) ** 2).mean())


@pytest.mark.parametrize("score", [[0.1], [[0.1, 0.2]], [], [np.nan, 0.2]])
def test_bad_scores_are_refused(score):
    with pytest.raises(DataError):
        auroc(score, [True, False][: len(score) or 2] if len(score) != 1 else [True, False])
    with pytest.raises(DataError):
        quality(np.zeros((2, 2)), np.zeros((2, 3), bool))

import numpy as np
import pandas as pd
import pytest
from support.fakes import MADDS, PARAMS, POLICY_MADDS, POLICY_PARAMS, fake_runs

from rdnlib.calibration.multiplier import choose
from rdnlib.errors import DataError
from rdnlib.reproduction.analysis.outcomes import Alone, difficulty_correlation, dynamic, interval, paired_difference


def test_wilson_interval_against_its_textbook_values():
    low, high = interval(np.arange(10) < 8)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert interval(np.ones(20, bool)) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert interval(np.zeros(20, bool)).low == 0
    wide, narrow = (interval(np.arange(10) < 8, level) for level in (0.99, 0.5))
    assert wide.low < low < narrow.low < narrow.high < high < wide.high
    with pytest.raises(DataError):
        interval(np.array([], bool))


def test_wilson_interval_covers():
    rng = np.random.default_rng(0)
    inside = 0
    for hits in rng.binomial(100, 0.9, 2000):
        low, high = interval(np.arange(100) < hits)
        inside += low <= 0.9 <= high
    assert 0.92 <= inside / 2000 <= 0.97  # discrete, so not exactly 0.95


def test_paired_difference_equals_the_bootstrap_over_samples():
    rng = np.random.default_rng(0)
    easy = rng.random(400)
    a, b = easy < 0.8, np.where(rng.random(400) < 0.9, easy < 0.75, rng.random(400) < 0.5)
    gain = paired_difference(a, b)
    assert gain.value == pytest.approx(a.mean() - b.mean())
    resampled = rng.integers(0, 400, (10_000, 400))
    difference = a[resampled].mean(axis=1) - b[resampled].mean(axis=1)
    assert (gain.low, gain.high) == pytest.approx(tuple(np.quantile(difference, [0.025, 0.975])), abs=0.004)
    assert gain == paired_difference(a, b)
    swapped = paired_difference(b, a)
    assert swapped.value == -gain.value
    assert paired_difference(a, a) == (0, 0, 0)
    with pytest.raises(DataError, match="same samples"):
        paired_difference(a, b[:-1])
    with pytest.raises(DataError, match="same samples"):
        paired_difference(a[:0], b[:0])


def test_dynamic_joins_by_id_whatever_the_order():
    rdn, policy = fake_runs()
    joined = dynamic(rdn, policy, split="validation")
    outcomes, probabilities = rdn.frame.set_index("id"), policy.frame.set_index("id")
    assert len(joined.ids) == 1000
    for row, key in enumerate(joined.ids[:50]):
        np.testing.assert_array_equal(joined.correct[row], outcomes.loc[key, [f"top1_{v}" for v in (1, 2, 3)]])
        np.testing.assert_array_equal(joined.top5[row], outcomes.loc[key, [f"top5_{v}" for v in (1, 2, 3)]])
        np.testing.assert_array_equal(joined.p[row], probabilities.loc[key, ["p_1", "p_2", "p_3"]].astype(float))
        assert joined.difficulty[row] == outcomes.loc[key, "difficulty"]
    np.testing.assert_allclose(joined.saved, [0.75, 0.5, 0])
    np.testing.assert_array_equal(joined.madds, np.array(MADDS) + POLICY_MADDS)
    np.testing.assert_array_equal(joined.params, np.array(PARAMS) + POLICY_PARAMS)


def broken(change):
    rdn, policy = fake_runs(40)
    change(rdn, policy)
    return rdn, policy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, p: setattr(p, "frame", p.frame[p.frame["id"] != r.frame["id"].iloc[-1]]), "1 images"),
        (lambda r, p: setattr(r, "frame", r.frame.iloc[:-2]), "2 images"),
        (lambda r, p: setattr(p, "frame", pd.concat([p.frame, p.frame])), "more than once"),
        (lambda r, p: setattr(r, "frame", pd.concat([r.frame, r.frame])), "more than once"),
        (lambda r, p: setattr(r, "frame", r.frame[r.frame["split"] == "calibration"]), "no samples"),
        (lambda r, p: setattr(p, "frame", p.frame.drop(columns="p_3")), "estimates 2"),
    ],
)
def test_samples_that_do_not_fit_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        dynamic(*broken(change), split="validation")


def test_easy_images_leave_early():
    samples = dynamic(*fake_runs(), split="validation")
    rho = difficulty_correlation(samples, 2.0)
    exits = choose(samples.p, samples.saved, 2.0)
    rank = [pd.Series(values).rank() for values in (exits, samples.difficulty)]
    assert rho == pytest.approx(np.corrcoef(*rank)[0, 1])
    assert rho > 0.5


def test_unknown_difficulty_and_a_single_exit_have_no_correlation():
    unknown, single = (
        dynamic(*fake_runs(**how), split="validation") for how in ({"difficulty": False}, {"flat": True})
    )
    assert np.isnan(difficulty_correlation(unknown, 2.0))
    assert np.isnan(difficulty_correlation(single, 1.0))


def test_a_sub_network_alone_is_a_run_of_one_network():
    rdn, _ = fake_runs(50)
    alone = Alone(rdn, 2)
    assert (alone.result["madds"], alone.result["params"]) == ([MADDS[1]], [PARAMS[1]])
    frame, whole = alone.samples(), rdn.samples()
    assert list(frame.filter(regex="_[0-9]+$").columns) == list(whole.filter(regex="_1$").columns)
    assert (frame["top1_1"] == whole["top1_2"]).all() and (frame["id"] == whole["id"]).all()

"""Intervals over images and over seeds: known quantiles, coverage, and pairing."""

from dataclasses import replace

import numpy as np
import pytest
from support.fakes import K, fake_base, fake_runs

from rdnlib.calibration.families import ByLambda, calibrate_and_apply
from rdnlib.errors import DataError
from rdnlib.reproduction.analysis.outcomes import interval, paired_difference
from rdnlib.reproduction.analysis.statistics import Estimate, accuracy, calibrated_estimates, difference, estimate


@pytest.mark.parametrize(("seeds", "quantile"), [(2, 12.7062), (3, 4.30265), (5, 2.77645), (31, 2.04227)])
def test_the_interval_over_seeds_takes_students_t_as_in_the_tables(seeds, quantile):
    values = np.random.default_rng(0).random(seeds)
    found = estimate([np.full(4, value) for value in values], same_images=True)
    reach = 100 * values.std(ddof=1) / np.sqrt(seeds)
    assert (found.seeds_high - found.value) / reach == pytest.approx(quantile, rel=1e-4)
    assert found.seeds_high - found.value == pytest.approx(found.value - found.seeds_low)


def test_one_seed_has_the_interval_of_its_outcomes():
    run, _ = fake_runs()
    right = run.frame.query("split == 'validation'")[f"top1_{K}"].to_numpy()
    found = accuracy([run], -1)
    assert found.value == pytest.approx(100 * right.mean())
    assert (found.low, found.high) == pytest.approx([100 * end for end in interval(right)])
    assert np.isnan(found.seeds_low) and found.hull == (found.low, found.high)


def test_differences_are_paired():
    run, _ = fake_runs()
    other = replace(run, frame=run.frame.sample(frac=1, random_state=3))  # another order, the same images
    zero = difference([run], [other])
    assert (zero.value, zero.low, zero.high) == (0, 0, 0)
    gain = difference([run], [run], K, 1)
    frame = run.frame.query("split == 'validation'")
    expected = paired_difference(frame[f"top1_{K}"], frame["top1_1"])
    assert gain.value == pytest.approx(100 * expected.value)
    assert gain.low == pytest.approx(100 * expected.low, abs=0.3)
    lost = replace(run, frame=run.frame.iloc[:-1])
    with pytest.raises(DataError, match="not evaluated on the same images"):
        difference([run], [lost])


def test_seeds_that_share_images_do_not_make_more_of_them():
    rng = np.random.default_rng(0)
    right = rng.random(2000) < 0.7
    once, thrice = estimate([right], same_images=True), estimate([right] * 3, same_images=True)
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high))
    drawn = [rng.random(2000) < 0.7 for _ in range(4)]
    pooled = estimate(drawn, same_images=False)
    assert pooled.high - pooled.low == pytest.approx((once.high - once.low) / 2, rel=0.15)


def test_whether_images_are_shared_is_seen_in_the_samples():
    first, second = fake_base(accuracy=0.7), fake_base(seed=8, accuracy=0.7)
    assert accuracy([first, second], 1).high < accuracy([first], 1).high
    relabelled = replace(second, frame=second.frame.assign(label=np.arange(len(second.frame)) % 7))
    shared, drawn = accuracy([first, second], 1), accuracy([first, relabelled], 1)
    assert shared.value == drawn.value
    stacked = np.concatenate([run.frame.query("split == 'validation'")["top1_1"] for run in (first, second)])
    expected = estimate([stacked], same_images=True)
    assert (drawn.low, drawn.high) == pytest.approx((expected.low, expected.high), abs=0.2)


def test_the_interval_over_seeds_covers_the_mean_of_all_seeds():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        values = [np.full(10, rng.normal(0.5, 0.02)) for _ in range(3)]
        found = estimate(values, same_images=True)
        hits += found.seeds_low <= 50 <= found.seeds_high
        assert found.hull.low <= found.low and found.hull.high >= found.high
    assert 180 <= hits <= 199


def test_nothing_is_no_estimate():
    with pytest.raises(DataError, match="at least one seed"):
        estimate([], same_images=True)
    assert Estimate(1.0, 0.5, 1.5).columns("x") == pytest.approx(
        {"x": 1, "x_low": 0.5, "x_high": 1.5, "x_seeds_low": np.nan, "x_seeds_high": np.nan}, nan_ok=True
    )


def population(n, rng):
    """f_λ over three networks: more skill and more cost, images of different difficulty."""
    hard = rng.normal(size=(n, 1))
    true = 1 / (1 + np.exp(-(np.array([0.5, 1.5, 2.0]) - 1.3 * hard)))
    seen = 1 / (1 + np.exp(-(np.array([0.5, 1.5, 2.0]) - 1.3 * hard - 0.7 * rng.normal(size=(n, 1)))))
    return ByLambda(
        seen, rng.random((n, 1)) + 0.1 * rng.normal(size=(n, 3)) < true, np.array([0.7, 0.4, 0]), np.array([3.0, 6, 10])
    )


def adaptive(held_out, samples, gap):
    def apply(calibration, validation):
        chosen_on = held_out.rows(calibration)
        outcome = calibrate_and_apply(chosen_on, samples.rows(validation), chosen_on.correct[:, -1], gap)
        return outcome.accuracy - samples.correct[validation, -1].mean(), 1 - outcome.madds.mean() / 10

    return apply


@pytest.mark.slow
def test_intervals_of_a_calibrated_policy_hold_the_truth_as_often_as_they_say(record_property):
    """300 draws of calibration and validation images: both intervals hold what the policy gives on average."""
    everyone, rng, found = population(100_000, np.random.default_rng(0)), np.random.default_rng(1), []
    for _ in range(300):
        held_out, samples = (everyone.rows(rng.choice(100_000, n, replace=False)) for n in (400, 1000))
        found.append(
            calibrated_estimates([(400, 1000, adaptive(held_out, samples, 0.01))], same_images=True, resamples=30)
        )
    for index, name in enumerate(("gain", "saving")):
        low, value, high = (np.array([getattr(each[index], end) for each in found]) for end in ("low", "value", "high"))
        covered = ((low <= value.mean()) & (value.mean() <= high)).mean()
        record_property(name, f"{covered:.3f}")
        print(f"{name}: {covered:.3f}")
        assert covered >= 0.93


def test_seeds_with_images_of_their_own_have_less_noise_together():
    rng = np.random.default_rng(0)
    seeds = [(150, 300, adaptive(population(150, rng), population(300, rng), 0.02)) for _ in range(3)]
    one = calibrated_estimates(seeds[:1], same_images=True)
    three = calibrated_estimates(seeds, same_images=False)
    for single, several in zip(one, three, strict=True):
        assert several.seeds == 3 and single.seeds == 1
        assert several.high - several.low < single.high - single.low
    again = calibrated_estimates(seeds, same_images=False)
    assert again == three

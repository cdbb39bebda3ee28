"""Promises: the experiments recover what is known of made-up outcomes."""

import numpy as np
import pytest
import torch

from rdnlib.calibration.coverage import CHOICES, compare_splits, coverage, promise_error, violations
from rdnlib.calibration.multiplier import saved_fraction
from rdnlib.errors import ConfigError
from rdnlib.policy.network import fit_policy
from rdnlib.training.evaluate import Outputs

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
    assert row["promised"] == 1 - epsilon
    assert 0 < row["kept"] < 1 and row["kept"] != row["overall"]
    again = coverage(p, correct, SAVED, epsilon, 0.1, samples=400, repeats=3)
    assert again.equals(frame.head(6))


def test_paired_coverage_is_about_the_gap():
    p, correct = case(3000)
    frame = coverage(p, correct, SAVED, 0.03, 0.1, samples=600, repeats=30, paired=True)
    assert (frame["promised"] == -0.03).all()
    assert frame["kept"].abs().max() < 0.1
    assert violations(frame).set_index("rule").loc["guaranteed", "violations_overall"] <= 0.1


def test_an_impossible_promise_is_not_broken():
    p, correct = case(300)
    frame = coverage(p, correct, SAVED, 0.001, 0.1, samples=100, repeats=5)
    assert frame["lam"].isna().all()
    assert (violations(frame)[["violations", "violations_overall", "possible"]] == 0).all(axis=None)


@pytest.mark.parametrize("samples", [0, 300, 400])
def test_both_parts_need_images(samples):
    p, correct = case(300)
    with pytest.raises(ConfigError, match="between 1 and 299"):
        coverage(p, correct, SAVED, 0.2, 0.1, samples=samples)


def outputs(n, seed, *, overfitted=False):
    """Features that tell how easy an image is; an over-fitted network is right more often on its training images."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    chance = (2 * x[:, :1] + 0.8 + torch.tensor([-0.5, 0.3, 0.6])).sigmoid()
    correct = torch.rand(n, 1, generator=generator) < chance + (0.15 if overfitted else 0)
    return Outputs(correct.numpy(), correct.numpy(), chance.numpy(), correct.numpy(), x.numpy(), None)


def test_a_promise_made_on_training_images_is_too_good():
    train, held_out = outputs(2000, 0, overfitted=True), outputs(1200, 1)
    settings = {"hidden": (8,), "epochs": 15}
    policy = fit_policy(train.features, train.top1, **settings)
    frame = compare_splits(policy, train, held_out, SAVED, 0.02, repeats=6, **settings)
    assert list(frame["choice"].unique()) == list(CHOICES)
    table = promise_error(frame).set_index("choice")
    assert table.loc["train / train", "shortfall"] > 0.05
    assert abs(table.loc["train / held-out", "shortfall"]) < 0.04
    assert table.loc["train / held-out", "error"] < table.loc["train / train", "error"]
    one = frame[frame["choice"] == "train / held-out"]
    assert table.loc["train / held-out", "error"] == pytest.approx(
        np.sqrt(((one["promised"] - one["kept"]) ** 2).mean())
    )

"""How the splits are used: what is known of made-up outcomes is recovered."""

import numpy as np
import pandas as pd
import pytest
import torch

from rdnlib.calibration.multiplier import saved_fraction
from rdnlib.policy.network import fit_policy
from rdnlib.reproduction.experiments.policies import BITS, CHOICES, compare_splits, predict, split_errors
from rdnlib.utils.files import write_table

SAVED = saved_fraction([1, 2, 4])


def outcomes(n, seed, *, overfitted=False):
    """Features that tell how easy an image is, and outcomes; an over-fitted network is right more often on its training images."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    chance = (2 * x[:, :1] + 0.8 + torch.tensor([-0.5, 0.3, 0.6])).sigmoid()
    correct = torch.rand(n, 1, generator=generator) < chance + (0.15 if overfitted else 0)
    return x.numpy(), correct.numpy()


def test_probabilities_are_the_policys_to_sixteen_bits():
    features, correct = outcomes(200, 0)
    policy = fit_policy(features, correct, hidden=(8,), epochs=2)
    found, exact = predict(policy, features), policy(torch.from_numpy(features)).detach().numpy()
    assert found.dtype == np.float32 and (found * 2**BITS == (found * 2**BITS).round()).all()
    assert 0 < np.abs(found - exact).max() <= 2.0 ** -(BITS + 1)


def test_accuracy_on_training_images_is_too_good():
    train, held_out = outcomes(2000, 0, overfitted=True), outcomes(1200, 1)
    settings = {"hidden": (8,), "epochs": 15}
    policy = fit_policy(*train, **settings)
    frame = compare_splits(policy, train, held_out, SAVED, 0.02, repeats=6, **settings)
    assert list(frame["choice"].unique()) == list(CHOICES)
    table = split_errors(frame).set_index("choice")
    assert table.loc["train / train", "shortfall"] > 0.05
    assert abs(table.loc["train / held-out", "shortfall"]) < 0.04
    assert table.loc["train / held-out", "error"] < table.loc["train / train", "error"]
    one = frame[frame["choice"] == "train / held-out"]
    assert table.loc["train / held-out", "error"] == pytest.approx(
        np.sqrt(((one["calibration"] - one["test"]) ** 2).mean())
    )


@pytest.mark.parametrize("images", [1, 2, 3])
def test_too_few_held_out_images_to_halve_give_no_rows(images, tmp_path):
    train, held_out = outcomes(20, 0), outcomes(images, 1)
    frame = compare_splits(fit_policy(*train, hidden=(8,), epochs=2), train, held_out, SAVED, 0.02, epochs=2)
    assert len(frame) == (60 if images == 3 else 0)
    write_table(tmp_path / "splits.csv", frame)
    table = split_errors(pd.read_csv(tmp_path / "splits.csv"))
    assert len(table) == (3 if images == 3 else 0)

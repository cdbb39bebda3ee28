"""Policies compared by cross-fitting: every number recomputed the obvious way, nothing judged on what it was chosen on."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import fake_runs

from rdnlib.calibration.families import FOLDS, calibrate_to
from rdnlib.reproduction.analysis import policy_choice
from rdnlib.reproduction.analysis.outcomes import families


@pytest.fixture(scope="module")
def own():
    return families(*fake_runs(), {}, split="calibration")


def test_cross_fitting_judges_every_sample_once_by_a_rule_that_has_not_seen_it(own):
    family, seen = own["dynamic"], []
    reference = family.correct[:, -1]

    def rule(rest, full, gap):
        seen.append(set(rest.ids))
        return policy_choice.unchanged, calibrate_to(rest, full, gap)[0]

    correct, madds = policy_choice.cross_fitted(family, rule, reference, 0.02)
    parts = np.array_split(np.random.default_rng(0).permutation(len(reference)), FOLDS)
    for rest, part in zip(seen, parts, strict=True):
        assert rest.isdisjoint(family.ids[part])
        chosen = np.setdiff1d(np.arange(len(reference)), part)
        lam = calibrate_to(family.rows(chosen), reference[chosen], 0.02)[0]
        exits = family.exits(lam)[part]
        np.testing.assert_array_equal(correct[part], family.correct[part, exits])
        np.testing.assert_array_equal(madds[part], family.madds[exits])


def test_the_comparison_has_every_policy_and_way(own):
    rdn, policy = fake_runs()
    table = policy_choice.policy_comparison([rdn, rdn], [policy, policy], gap=0.02, base_madds=1e7)
    assert list(table["policy"].unique()) == list(policy_choice.POLICIES)
    assert table.groupby("policy").size().to_dict() == {
        name: len(policy_choice.ways(own[name])) for name in policy_choice.POLICIES
    }
    assert (table["seeds"] == 2).all()
    assert (table["miss_spread"] == 0).all()  # twice the same run
    plain = table[(table["policy"] == "sequential") & (table["way"] == "plain")].iloc[0]
    reference = own["dynamic"].correct[:, -1]
    rule = policy_choice.ways(own["sequential"])["plain"]
    correct, madds = policy_choice.cross_fitted(own["sequential"], rule, reference, 0.02)
    assert plain["miss"] == pytest.approx(100 * (correct.mean() - reference.mean() + 0.02))
    assert plain["share"] == pytest.approx(madds.mean() / 1e7)


@given(seed=st.integers(0, 99), count=st.integers(2, 60))
@settings(max_examples=30, deadline=None)
def test_isotonic_is_ascending_and_keeps_the_mean(seed, count):
    rng = np.random.default_rng(seed)
    p = rng.random((count, 3))
    correct = rng.random((count, 3)) < p
    fitted = policy_choice.isotonic(p, correct)(p)
    for v in range(3):
        assert (np.diff(fitted[p[:, v].argsort(), v]) >= -1e-12).all()
    np.testing.assert_allclose(fitted.mean(axis=0), correct.mean(axis=0))
    new = policy_choice.isotonic(p, correct)(rng.random((7, 3)))
    assert ((new >= 0) & (new <= 1)).all()


def test_temperature_undoes_over_confidence():
    rng = np.random.default_rng(0)
    true = rng.random((20_000, 2)) * 0.9 + 0.05
    correct = rng.random(true.shape) < true
    logit = np.log(true / (1 - true))
    sharp = 1 / (1 + np.exp(-3 * logit))  # three times as sure as it should be
    np.testing.assert_allclose(policy_choice.temperature(sharp, correct)(sharp), true, atol=0.02)


def test_the_best_way_is_the_cheapest_that_keeps_the_target():
    table = pd.DataFrame({"policy": [*"abc"], "way": "margin", "miss": [-0.4, -0.2, 0.5], "share": [0.5, 0.7, 0.8]})
    assert policy_choice.best_way(table)["policy"] == "b"
    assert policy_choice.best_way(table.assign(miss=[-2.0, -1.0, -3.0]))["policy"] == "b"

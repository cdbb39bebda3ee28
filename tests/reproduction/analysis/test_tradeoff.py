"""Figure 8 and its alternatives: every number recomputed the obvious way, and nothing chosen on validation."""

import numpy as np
import pandas as pd
import pytest
from support.fakes import MADDS, POLICY, POLICY_MADDS, FakeEvidence, FakeRun, K, fake_base, fake_runs

from rdnlib.calibration.multiplier import choose
from rdnlib.errors import DataError
from rdnlib.reproduction.analysis import tradeoff
from rdnlib.reproduction.analysis.calibrated import accuracy_at_cost, band, calibrated, over_seeds
from rdnlib.reproduction.analysis.outcomes import dynamic, families
from rdnlib.reproduction.analysis.tables import table1

GAPS = (0.0, 0.02)
NAMES = [
    "dynamic",
    "dynamic, reads N_1’s logits",
    "sequential",
    "confidence cascade",
    "one sub-network",
    "random mix of two",
    "base networks",
]


@pytest.fixture(scope="module")
def runs():
    small, large = fake_base(seed=5, madds=9_000_000, accuracy=0.6), fake_base(seed=6, accuracy=0.85)
    return (*fake_runs(), {"large": large, "small": small})


def test_figure8_has_every_series_with_the_right_numbers(runs):
    rdn, policy, bases = runs
    frame = tradeoff.figure8(
        rdn, policy, bases, [calibrated(*runs, gap=gap, resamples=10) for gap in GAPS], max_points=50
    )
    curves = ["dynamic", "sequential", "confidence cascade"]
    assert set(frame["series"]) == {
        "sub-networks",
        *curves,
        *(f"{name}, calibrated" for name in curves),
        "base networks",
        "random mix of N_1 and N_K",
        "oracle (first correct exit)",
    }
    series = dict(list(frame.groupby("series")))
    samples = dynamic(rdn, policy, split="validation")
    assert list(series["sub-networks"]["madds"]) == MADDS
    np.testing.assert_allclose(series["sub-networks"]["top1"], 100 * samples.correct.mean(axis=0))
    extra = {
        "dynamic": np.full(K, POLICY_MADDS),
        "sequential": np.array(POLICY["sequential_madds"]),
        "confidence cascade": POLICY["answer_madds"] * np.arange(K),
    }
    for name in curves:
        curve = series[name]
        assert len(curve) <= 50
        shares = curve[["exit_1", "exit_2", "exit_3"]].to_numpy()
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        np.testing.assert_allclose(curve["madds"], shares @ (np.array(MADDS) + extra[name]))
        stars = series[f"{name}, calibrated"]
        assert list(stars["name"]) == ["target N_K", "target N_K − 2 points"]
        assert stars["madds"].iloc[1] < stars["madds"].iloc[0]
        shares = stars[["exit_1", "exit_2", "exit_3"]].to_numpy()
        np.testing.assert_allclose(stars["madds"], shares @ (np.array(MADDS) + extra[name]))
    first = table1({}, {"RDN": ([rdn], [policy])}).iloc[0]
    star = series["dynamic, calibrated"].iloc[0]
    assert star["top1"] == pytest.approx(first["top1"])
    assert star["madds"] == pytest.approx(first["madds_m"] * 1e6)
    oracle = series["oracle (first correct exit)"].iloc[0]
    assert oracle["top1"] == pytest.approx(100 * samples.correct.any(axis=1).mean())
    first = [next((v for v in range(K) if row[v]), 0) for row in samples.correct]
    assert oracle["madds"] == pytest.approx(np.mean([MADDS[v] for v in first]))
    np.testing.assert_allclose(series["random mix of N_1 and N_K"]["madds"], [MADDS[0], MADDS[-1]])
    assert list(series["base networks"]["name"]) == ["large", "small"]
    sampled = frame[~frame["series"].str.startswith("random")]
    assert ((sampled["low"] <= sampled["top1"]) & (sampled["top1"] <= sampled["high"])).all()


def test_all_policies_aim_at_the_same_target(runs):
    targets = [[calibrated(*runs, gap=gap, resamples=10)] for gap in GAPS]
    table = tradeoff.target_table(targets)
    assert list(table["policy"]) == NAMES * 2
    rdn, policy, bases = runs
    calibration = families(rdn, policy, bases, split="calibration")
    full = calibration["one sub-network"].correct[:, -1].mean()
    for gap in GAPS:
        for name, family in calibration.items():
            right, _ = family.take(family.reach(full - gap))
            assert right.mean() >= full - gap - 1e-9, name
    validation = dynamic(rdn, policy, split="validation")
    for row in table.itertuples():
        assert row.to_full == pytest.approx(row.top1 - 100 * validation.correct[:, -1].mean())
        assert row.to_full_low <= row.to_full + 1e-9
        assert row.share == pytest.approx(100 * row.madds / MADDS[-1])
    assert not table["note"].any()
    twice = tradeoff.target_table([each * 2 for each in targets])
    np.testing.assert_allclose(twice["to_full"], table["to_full"])
    assert (twice["seeds"] == 2).all() and twice["parameter"][0] == ", ".join([table["parameter"][0]] * 2)
    drawn = tradeoff.target_table([each * 2 for each in targets], same_images=False)
    np.testing.assert_allclose(drawn["share_high"] - drawn["share"], (table["share_high"] - table["share"]) / 2**0.5)


def test_nothing_is_chosen_on_validation(runs):
    rdn, policy, bases = runs
    rng = np.random.default_rng(0)
    spoiled = []
    for run in (rdn, policy, *bases.values()):
        frame = run.samples()
        rows = frame["split"] == "validation"
        for name in frame.columns:
            if name.startswith(("top1", "top5", "confidence", "p_", "q_", "above")):
                frame.loc[rows, name] = rng.permutation(frame.loc[rows, name])
        spoiled.append(type(run)(run.result, frame))
    other = (*spoiled[:2], dict(zip(bases, spoiled[2:], strict=True)))
    chosen = [calibrated(*each, resamples=2).outcomes for each in (runs, other)]
    assert all(chosen[0][name].parameter == chosen[1][name].parameter for name in NAMES)


def test_a_duel_is_paired(runs):
    target = calibrated(*runs, resamples=10)
    _, gain, cost = over_seeds([target], "sequential", "dynamic", same_images=True)
    own, rival = (target.outcomes[name] for name in ("sequential", "dynamic"))
    assert gain.value == pytest.approx(100 * (own.correct.mean() - rival.correct.mean()))
    assert cost.value == pytest.approx(100 * (own.madds - rival.madds).mean() / MADDS[-1])
    assert cost.low <= cost.value <= cost.high


def test_rivals_at_fewer_seeds_are_shown_at_the_first_only():
    class Lone(FakeEvidence):
        def runs(self, name):
            return super().runs(name)[: 1 if name.startswith("alone") else 3]

    (first,), all_seeds = tradeoff.base_networks(Lone(), seeds=1), tradeoff.base_networks(Lone())
    assert "alone-1" in first and {"base", "base-longer"} <= set(first)
    assert len(all_seeds) == 3 and all(set(each) == set(first) - {"alone-1"} for each in all_seeds)


def test_base_networks_must_have_seen_the_same_images(runs):
    rdn, policy, _ = runs
    with pytest.raises(DataError, match="not run on the RDN's images"):
        families(rdn, policy, {"base": fake_base(1000)}, split="validation")


def test_without_base_networks(runs):
    rdn, policy, _ = runs
    assert list(families(rdn, policy, {}, split="validation")) == NAMES[:-1]
    assert "base networks" not in set(tradeoff.figure8(rdn, policy, {}, [])["series"])


def test_the_band_knows_the_luck_of_both_splits():
    """Against 100 redrawn pairs of splits from a known population: the truth is in the band about as often as it says."""
    rdn, policy = fake_runs(20_000)
    population = dynamic(rdn, policy, split="validation")
    rng, budgets, held = np.random.default_rng(0), np.array([15e6, 25e6, 35e6]), []
    truth = accuracy_at_cost(population, population, budgets)
    for _ in range(100):
        own, test = (population.rows(rng.choice(len(population.ids), n, replace=False)) for n in (300, 600))
        found = accuracy_at_cost(own, test, budgets)
        held.append(np.abs(found - truth) <= band(own, test, budgets, resamples=30))
    assert (np.mean(held, axis=0) >= 0.88).all()


def test_accuracy_at_a_cost_is_that_of_the_dearest_policy_that_keeps_it():
    own, test = splits(*fake_runs())
    grid = np.linspace(0, 20, 4001)
    costs = np.array([own.take(lam)[1].mean() for lam in grid])
    for budget in (15e6, 20e6, 30e6, 1.0):
        kept = grid[costs <= budget]
        expected = test.take(kept.max() if len(kept) else 0.0)[0].mean()
        assert accuracy_at_cost(own, test, np.array([budget]))[0] == pytest.approx(expected, abs=0.01)


def splits(rdn, policy):
    return [dynamic(rdn, policy, split=split) for split in ("calibration", "validation")]


def test_gains_of_adapting_at_the_cost_of_each_sub_network():
    rdn, policy = fake_runs()
    found = tradeoff.adaptive_gains(*splits(rdn, policy), MADDS)
    held_out, samples = splits(rdn, policy)
    assert found.shape == (K - 1, 2)
    for row, madds in enumerate(MADDS[1:]):
        fits = [
            lam
            for lam in np.linspace(0, 50, 5001)
            if held_out.madds[choose(held_out.p, held_out.saved, lam)].mean() <= madds
        ]
        exits = choose(samples.p, samples.saved, max(fits))
        gain = samples.correct[np.arange(len(exits)), exits].mean() - samples.correct[:, row + 1].mean()
        assert found[row, 0] == pytest.approx(gain, abs=0.005)
        assert found[row, 1] == pytest.approx(samples.madds[exits].mean() / madds, abs=0.02)
    table = tradeoff.equal_cost_table([rdn], [policy])
    np.testing.assert_allclose(table[["gain", "spent"]], 100 * found[table["subnetwork"] - 2])
    assert (table["gain_low"] <= table["gain"]).all() and table["gain_low"][0] < table["gain"][0]
    assert len(table) == 2 and table["gain_seeds_low"].isna().all()
    costly = FakeRun({**policy.result, "policy_madds": 10**9}, policy.frame)
    assert np.isnan(tradeoff.adaptive_gains(*splits(rdn, costly), MADDS)).all()
    nothing = tradeoff.equal_cost_table([rdn], [costly])
    assert nothing.empty and list(nothing) == list(table)


def test_share_above_the_line_through_base_networks():
    bases = pd.DataFrame({"series": "base networks", "madds": [10.0, 20.0, 20.0], "top1": [50.0, 60.0, 70.0]})
    curve = pd.DataFrame({"series": "dynamic", "madds": [30.0, 12.0, 16.0], "top1": [75.0, 58.0, 59.0]})
    # the line is 50 + 2 (cost − 10): 58 % from 12 to 16 is above it until 14, 59 % from 16 on is not
    share = tradeoff.share_above_base_networks(pd.concat([bases, curve]), "dynamic")
    assert share == pytest.approx(0.2, abs=0.005)
    assert np.isnan(tradeoff.share_above_base_networks(pd.concat([bases[1:], curve]), "dynamic"))

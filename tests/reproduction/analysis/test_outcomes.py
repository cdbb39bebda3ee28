import numpy as np
import pandas as pd
import pytest
from support.fakes import MADDS, PARAMS, POLICY_MADDS, POLICY_PARAMS, K, fake_base, fake_runs

from rdnlib.calibration.multiplier import calibrate, choose, saved_fraction, sweep
from rdnlib.errors import DataError
from rdnlib.reproduction.analysis import outcomes as outcomes_module


def test_wilson_interval_against_its_textbook_values():
    low, high = outcomes_module.interval(np.arange(10) < 8)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert outcomes_module.interval(np.ones(20, bool)) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert outcomes_module.interval(np.zeros(20, bool)).low == 0
    wide, narrow = (outcomes_module.interval(np.arange(10) < 8, level) for level in (0.99, 0.5))
    assert wide.low < low < narrow.low < narrow.high < high < wide.high
    with pytest.raises(DataError):
        outcomes_module.interval(np.array([], bool))


def test_wilson_interval_covers():
    rng = np.random.default_rng(0)
    inside = 0
    for hits in rng.binomial(100, 0.9, 2000):
        low, high = outcomes_module.interval(np.arange(100) < hits)
        inside += low <= 0.9 <= high
    assert 0.92 <= inside / 2000 <= 0.97  # discrete, so not exactly 0.95


def test_paired_difference_equals_the_bootstrap_over_samples():
    rng = np.random.default_rng(0)
    easy = rng.random(400)
    a, b = easy < 0.8, np.where(rng.random(400) < 0.9, easy < 0.75, rng.random(400) < 0.5)
    found = outcomes_module.paired_difference(a, b)
    assert found.value == pytest.approx(a.mean() - b.mean())
    resampled = rng.integers(0, 400, (10_000, 400))
    difference = a[resampled].mean(axis=1) - b[resampled].mean(axis=1)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(difference, [0.025, 0.975])), abs=0.004)
    assert found == outcomes_module.paired_difference(a, b)
    swapped = outcomes_module.paired_difference(b, a)
    assert swapped.value == -found.value
    assert outcomes_module.paired_difference(a, a) == (0, 0, 0)
    with pytest.raises(DataError, match="same samples"):
        outcomes_module.paired_difference(a, b[:-1])
    with pytest.raises(DataError, match="same samples"):
        outcomes_module.paired_difference(a[:0], b[:0])


def test_subnetwork_table_uses_validation_only():
    run, _ = fake_runs()
    table = outcomes_module.subnetwork_table(run)
    seen = run.frame[run.frame["split"] == "validation"]
    assert list(table["subnetwork"]) == [1, 2, 3]
    assert list(table["madds"]) == MADDS
    assert list(table["params"]) == PARAMS
    for v in range(1, K + 1):
        row = table.iloc[v - 1]
        assert row["top1"] == pytest.approx(100 * seen[f"top1_{v}"].mean())
        assert row["top5"] == pytest.approx(100 * seen[f"top5_{v}"].mean())
        assert (row["top1_low"], row["top1_high"]) == pytest.approx(
            tuple(100 * end for end in outcomes_module.interval(seen[f"top1_{v}"]))
        )
        assert row["top1_low"] < row["top1"] < row["top1_high"]
    assert "split" not in table


def test_every_subnetwork_shows_what_surgery_alone_gives():
    run, _ = fake_runs()
    run.result["before_training"] = {"top1": [0.1, 0.2, 0.3], "top5": [0.5, 0.6, 0.7]}
    plain, _ = fake_runs()
    table = outcomes_module.every_subnetwork({"rdn": run, "base": plain})
    assert list(table["model"]) == ["rdn"] * K + ["base"] * K
    assert list(table["top1_before"][:K]) == pytest.approx([10, 20, 30])
    assert table["top5_before"][K:].isna().all()
    pd.testing.assert_series_equal(table["top1"][:K], outcomes_module.subnetwork_table(run)["top1"])


def test_dynamic_joins_by_id_whatever_the_order():
    rdn, policy = fake_runs()
    joined = outcomes_module.dynamic(rdn, policy, split="validation")
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
        outcomes_module.dynamic(*broken(change), split="validation")


def test_table1_has_the_papers_rows_and_the_dynamic_one_is_chosen_on_calibration():
    rdn, policy = fake_runs()
    table = outcomes_module.table1({"base": fake_base(), "RDN": rdn}, {"RDN": (rdn, policy)})
    assert list(table["model"]) == ["base", "RDN", "RDN†"]
    assert list(table["integrated_nets"]) == ["1 full network", "3 sub-networks", "3 sub-networks"]
    base, static, row = (table.iloc[index] for index in range(3))
    assert (base["params_m"], base["madds_m"]) == (3, 30)
    assert (static["params_m"], static["madds_m"]) == (4, 40)
    assert np.isnan(static["lam"])

    calibration = outcomes_module.dynamic(rdn, policy, split="calibration")
    accuracy = calibration.correct[:, -1].mean()
    lam = calibrate(calibration.p, calibration.correct, calibration.saved, 1 - accuracy).lam
    assert row["lam"] == lam
    samples = outcomes_module.dynamic(rdn, policy, split="validation")
    exits = choose(samples.p, samples.saved, lam)
    assert row["top1"] == pytest.approx(100 * np.mean([samples.correct[i, v] for i, v in enumerate(exits)]))
    assert row["top5"] == pytest.approx(100 * np.mean([samples.top5[i, v] for i, v in enumerate(exits)]))
    assert row["madds_m"] == pytest.approx(np.mean([MADDS[v] + POLICY_MADDS for v in exits]) / 1e6)
    assert row["params_m"] == pytest.approx(np.mean([PARAMS[v] + POLICY_PARAMS for v in exits]) / 1e6)
    assert row["note"] == ""
    assert row["madds_m"] < static["madds_m"]
    assert row["top1_low"] < row["top1"] < row["top1_high"]


def test_an_unreachable_target_is_noted():
    rdn, policy = fake_runs(flat=True)  # prefers N_1 for every λ
    row = outcomes_module.table1({}, {"RDN": (rdn, policy)}).iloc[0]
    assert "not reachable" in row["note"]
    calibration = outcomes_module.dynamic(rdn, policy, split="calibration")
    best = sweep(calibration.p, calibration.correct, calibration.saved)["accuracy"].max()
    assert f"{100 * best:.2f}" in row["note"]
    assert row["madds_m"] == pytest.approx((MADDS[0] + POLICY_MADDS) / 1e6)


def test_easy_images_leave_early():
    rdn, policy = fake_runs()
    samples = outcomes_module.dynamic(rdn, policy, split="validation")
    rho, table = outcomes_module.exit_difficulty(samples, 2.0)
    exits = choose(samples.p, samples.saved, 2.0)
    rank = [pd.Series(values).rank() for values in (exits, samples.difficulty)]
    assert rho == pytest.approx(np.corrcoef(*rank)[0, 1])
    assert rho > 0.5
    assert list(table["exit"]) == [1, 2, 3]
    for v in range(K):
        assert table["share"][v] == pytest.approx((exits == v).mean())
        if (exits == v).any():
            assert table["difficulty"][v] == pytest.approx(samples.difficulty[exits == v].mean(), rel=1e-5)


def test_unknown_difficulty_and_a_single_exit_give_nan():
    samples = outcomes_module.dynamic(*fake_runs(difficulty=False), split="validation")
    rho, table = outcomes_module.exit_difficulty(samples, 2.0)
    assert np.isnan(rho)
    assert table["difficulty"].isna().all()
    assert table["share"].sum() == pytest.approx(1)
    samples = outcomes_module.dynamic(*fake_runs(flat=True), split="validation")
    rho, table = outcomes_module.exit_difficulty(samples, 1.0)
    assert np.isnan(rho)
    assert table["share"].tolist() == [1, 0, 0]


def test_paper_tables_hold_the_printed_numbers(pytestconfig):
    folder = pytestconfig.rootpath / "data" / "paper"
    table = pd.read_csv(folder / "table1.csv", dtype=str)
    assert len(table) == 9
    assert table.iloc[7].tolist() == [
        "RDN-MobileNeXt-multi1.5†",
        "11.54",
        "660",
        "76.68",
        "93.54",
        "7 sub-networks",
    ]
    for number, rows in ((2, 4), (3, 3), (4, 2), (5, 3)):
        assert len(pd.read_csv(folder / f"table{number}.csv")) == rows
    light = pd.read_csv(folder / "table4.csv")["top1_light"]
    assert (light[0] - light[1]) == pytest.approx(2.21)  # the caption says ~1.8


def test_saved_fraction():
    np.testing.assert_allclose(saved_fraction([1, 2, 4]), [0.75, 0.5, 0])

"""The tables, from made-up outcomes whose answers are known; and the paper's, as printed."""

from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from support.fakes import MADDS, PARAMS, POLICY, POLICY_MADDS, POLICY_PARAMS, FakeRun, K, fake_base, fake_runs
from support.profiles import TINY

from rdnlib.calibration.multiplier import calibrate, choose, sweep
from rdnlib.errors import DataError
from rdnlib.order import best_order
from rdnlib.reproduction.analysis.outcomes import dynamic, interval, split_rows
from rdnlib.reproduction.analysis.statistics import Evidence, accuracy
from rdnlib.reproduction.analysis.tables import (
    Untrained,
    comparison,
    every_subnetwork,
    gains_by_adapting,
    grid_table,
    length_table,
    lever_table,
    repaired,
    subnetwork_table,
    table1,
    table2,
)
from rdnlib.reproduction.book import results
from rdnlib.reproduction.experiments import graph
from rdnlib.reproduction.experiments.config import load_profile

NODES = [[i, j] for j in (0, 1) for i in (1, 2)]


def test_subnetwork_table_uses_validation_only():
    run, _ = fake_runs()
    table = subnetwork_table(run)
    seen = run.frame[run.frame["split"] == "validation"]
    assert list(table["subnetwork"]) == [1, 2, 3]
    assert list(table["madds"]) == MADDS
    assert list(table["params"]) == PARAMS
    for v in range(1, K + 1):
        row = table.iloc[v - 1]
        assert row["top1"] == pytest.approx(100 * seen[f"top1_{v}"].mean())
        assert row["top5"] == pytest.approx(100 * seen[f"top5_{v}"].mean())
        assert (row["top1_low"], row["top1_high"]) == pytest.approx(
            tuple(100 * end for end in interval(seen[f"top1_{v}"]))
        )
        assert row["top1_low"] < row["top1"] < row["top1_high"]
    assert "split" not in table


def test_every_subnetwork_shows_what_surgery_alone_gives():
    run, _ = fake_runs()
    run.result["before_training"] = {"top1": [0.1, 0.2, 0.3], "top5": [0.5, 0.6, 0.7]}
    plain, _ = fake_runs()
    table = every_subnetwork({"rdn": [run], "base": [plain]})
    assert list(table["model"]) == ["rdn"] * K + ["base"] * K
    assert list(table["top1_before"][:K]) == pytest.approx([10, 20, 30])
    assert table["top5_before"][K:].isna().all()
    alone = subnetwork_table(run)
    for column in ("top1", "top1_low", "top5_high"):
        np.testing.assert_allclose(table[column][:K], alone[column])
    both = every_subnetwork({"rdn": [run, run]})
    np.testing.assert_allclose(both["top1"], alone["top1"])
    assert (both["top1_seeds_low"] == both["top1"]).all()  # the same network twice


def test_table1_has_the_papers_rows_and_the_dynamic_one_is_chosen_on_calibration():
    rdn, policy = fake_runs()
    table = table1({"base": [fake_base()], "RDN": [rdn]}, {"RDN": ([rdn], [policy])})
    assert list(table["model"]) == ["base", "RDN", "RDN†", "RDN‡"]
    assert list(table["integrated_nets"]) == ["1 full network", *["3 sub-networks"] * 3]
    base, static, row, sequential = (table.iloc[index] for index in range(4))
    assert (base["params_m"], base["madds_m"]) == (3, 30)
    assert (static["params_m"], static["madds_m"], static["unfolded_m"]) == (4, 40, 40)
    assert np.isnan(static["lam"])

    calibration = dynamic(rdn, policy, split="calibration")
    accuracy = calibration.correct[:, -1].mean()
    lam = calibrate(calibration.p, calibration.correct, calibration.saved, 1 - accuracy).lam
    assert row["lam"] == lam
    samples = dynamic(rdn, policy, split="validation")
    exits = choose(samples.p, samples.saved, lam)
    assert row["top1"] == pytest.approx(100 * np.mean([samples.correct[i, v] for i, v in enumerate(exits)]))
    assert row["top5"] == pytest.approx(100 * np.mean([samples.top5[i, v] for i, v in enumerate(exits)]))
    assert row["madds_m"] == pytest.approx(np.mean([MADDS[v] + POLICY_MADDS for v in exits]) / 1e6)
    assert row["params_m"] == pytest.approx(np.mean([PARAMS[v] + POLICY_PARAMS for v in exits]) / 1e6)
    assert row["note"] == ""
    assert row["madds_m"] < static["madds_m"]
    assert row["top1_low"] < row["top1"] < row["top1_high"]

    above = [split_rows(policy, "validation")[f"above_{v}"].to_numpy() for v in (1, 2)]
    exits = [0 if sequential["lam"] <= a else 1 if sequential["lam"] <= b else 2 for a, b in zip(*above, strict=True)]
    cost = [MADDS[v] + POLICY["sequential_madds"][v] for v in exits]
    assert sequential["madds_m"] == pytest.approx(np.mean(cost) / 1e6)
    assert sequential["params_m"] == pytest.approx(
        np.mean([PARAMS[v] + POLICY["sequential_params"] for v in exits]) / 1e6
    )
    assert sequential["top1"] == pytest.approx(100 * np.mean([samples.correct[i, v] for i, v in enumerate(exits)]))
    assert np.isnan(sequential["unfolded_m"])

    seeds = table1({}, {"RDN": ([rdn, fake_runs(seed=1)[0]], [policy, fake_runs(seed=1)[1]])})
    (second,) = [table1({}, {"RDN": tuple([run] for run in fake_runs(seed=1))}).iloc[0]]
    for column in ("top1", "top5", "madds_m", "params_m", "lam"):
        assert seeds[column][0] == pytest.approx((row[column] + second[column]) / 2)
    assert seeds["seeds"].tolist() == [2, 2] and seeds["top1_seeds_low"].notna().all()
    gains = gains_by_adapting([rdn], [policy])
    assert gains["†"].value == pytest.approx(row["top1"] - static["top1"])
    assert gains["‡"].value == pytest.approx(sequential["top1"] - static["top1"])


def test_an_unreachable_target_is_noted():
    rdn, policy = fake_runs(flat=True)  # prefers N_1 for every λ
    row = table1({}, {"RDN": ([rdn], [policy])}).iloc[0]
    assert "not reachable" in row["note"]
    calibration = dynamic(rdn, policy, split="calibration")
    best = sweep(calibration.p, calibration.correct, calibration.saved)["accuracy"].max()
    assert f"{100 * best:.2f}" in row["note"]
    assert row["madds_m"] == pytest.approx((MADDS[0] + POLICY_MADDS) / 1e6)
    assert "seeds)" not in row["note"]
    reached = fake_runs(seed=1)
    both = table1({}, {"RDN": ([rdn, reached[0]], [policy, reached[1]])}).iloc[0]
    assert both["note"] == row["note"] + " (at 1 of 2 seeds)"
    again = fake_runs(flat=True, seed=2)
    never = table1({}, {"RDN": ([rdn, again[0]], [policy, again[1]])}).iloc[0]
    assert never["note"].count("not reachable") == 2 and never["note"].endswith(" (at 2 of 2 seeds)")


def test_a_table_compares_with_its_first_row():
    run, _ = fake_runs()
    worse = replace(run, frame=run.frame.assign(**{f"top1_{K}": run.frame["top1_1"]}))
    for each in (run, worse):
        each.result["epochs"] = 4
    table = comparison({"a": [run, run], "b": [worse, run]}, {"top1": -1, "light": 1})
    assert list(table["name"]) == ["a", "b"] and list(table["seeds"]) == [2, 2]
    assert table["top1_gain"][0] == 0 and table["top1_gain"][1] < 0 and (table["light_gain"] == 0).all()
    assert table["top1_gain"][1] == pytest.approx(table["top1"][1] - table["top1"][0])
    assert table["top1_gain_seeds_high"][1] > table["top1_gain_high"][1]  # two seeds say little


def run_of(accuracies, *, nodes=None, n=400, seed=0) -> FakeRun:
    """A run whose sub-networks are right for just these shares of the validation images; calibration is all wrong."""
    rng = np.random.default_rng(seed)
    columns = {"id": rng.permutation(2 * n), "split": ["validation"] * n + ["calibration"] * n}
    columns |= {"label": 0, "difficulty": np.nan}
    for number, share in enumerate(accuracies, start=1):
        columns[f"top1_{number}"] = np.arange(2 * n) < share * n
    madds = [10 * number for number in range(1, len(accuracies) + 1)]
    result = {"name": "a run", "madds": madds, "params": madds, **({"nodes": nodes} if nodes else {})}
    return FakeRun(result, pd.DataFrame(columns))


def test_a_grid_has_the_accuracy_of_every_node():
    table = grid_table(run_of([0.5, 0.6, 0.7, 0.8], nodes=NODES))
    assert table[["width", "depth"]].to_numpy().tolist() == NODES
    assert table["accuracy"].tolist() == [50, 60, 70, 80]
    assert table["madds"].tolist() == [10, 20, 30, 40]
    low, high = interval(np.arange(400) < 200)
    assert (table["low"][0], table["high"][0]) == (100 * low, 100 * high)
    assert grid_table(run_of([0.5] * 4, nodes=NODES), "calibration")["accuracy"].tolist() == [0] * 4
    assert best_order(table)[0] == [(1, 0), (2, 0), (2, 1)]


def test_a_run_without_depth_has_no_grid():
    with pytest.raises(DataError, match="a run is not nested along its depth"):
        grid_table(run_of([0.5, 0.6]))


def test_table2_compares_the_largest_subnetworks_image_by_image():
    networks = {"A": ([0.2, 0.75], [0.1, 0.2, 0.3, 0.7]), "B": ([0.2, 0.5], [0.1, 0.5])}
    pairs = {name: tuple([run_of(each)] for each in pair) for name, pair in networks.items()}
    table, lost = table2(pairs)
    assert table["top1"].tolist() == [75, 70, 50, 50]
    assert table["integrated_nets"].tolist() == ["2 sub-networks", "4 sub-networks", "2 sub-networks", "2 sub-networks"]
    assert lost["A"].value == pytest.approx(5) and lost["A"].high > 5
    assert lost["A"].low > 0  # twenty of four hundred images, all in one direction
    assert (lost["B"].value, lost["B"].low, lost["B"].high) == (0, 0, 0)
    twice, _ = table2({"A": tuple(own * 2 for own in pairs["A"])})
    assert twice["seeds"].tolist() == [2, 2] and twice["top1"].tolist() == [75, 70]


def test_table2_refuses_other_images():
    other = run_of([0.5])
    other.frame["id"] += 1
    with pytest.raises(DataError, match="not evaluated on the same images"):
        table2({"A": ([run_of([0.5])], [other])})


@pytest.mark.parametrize("name", [TINY, "quick", "laptop"])
def test_profiles_train_fair_pairs_for_table2(name):
    profile = load_profile(name)
    nodes = graph.experiments(profile, 0)
    assert set(graph.table2(profile)) == {"mobilenext", *profile.architectures} - {"resnext50"}
    for seven, fourteen in graph.table2(profile).values():
        ours = {key: value for key, value in nodes[fourteen].config.items() if key != "split"}
        assert ours == nodes[seven].config
        assert nodes[fourteen].parents == nodes[seven].parents


def surgery(seed):
    rdn, _ = fake_runs(seed=seed)
    frame = rdn.frame.query("split == 'validation'")
    renamed = {f"top1_{v}": f"reconstruct_{v}" for v in range(1, K + 1)}
    frame = frame.rename(columns=renamed).assign(**{f"copy_{v}": False for v in range(1, K + 1)}, supernet_1=True)
    return FakeRun({"name": "surgery", "madds": MADDS, "params": PARAMS}, frame)


class FakeEvidence(Evidence):
    profile = load_profile("laptop")  # lengths 0, 1, 4 and 16

    def runs(self, name):
        return [surgery(0) if name.startswith("surgery") else fake_runs(seed=0)[0]]


def test_untrained_is_a_run_like_any_other():
    right = fake_runs()[0].frame.query("split == 'validation'").set_index("id").sort_index()
    for init, expected in (("reconstruct", right["top1_2"]), ("copy", np.zeros(len(right)))):
        samples = Untrained(surgery(0), init).samples().set_index("id").sort_index()
        assert np.array_equal(samples["top1_2"], expected)
    assert Untrained(surgery(0), "copy").result["epochs"] == 0


def test_a_row_for_each_length_and_sub_network():
    table = length_table(FakeEvidence(SimpleNamespace()))
    assert sorted(table["epochs"].unique()) == [0, 4, 16] and len(table) == 3 * K
    start = table[table["epochs"] == 0]
    assert (start["copy"] == 0).all() and (start["gain"] == start["reconstruct"]).all()
    assert (table[table["epochs"] > 0]["gain"] == 0).all()


def test_what_was_repair_by_hand():
    columns = ["epochs", "subnetwork", "copy", "reconstruct"]
    rows = [(0, 1, 10, 40), (4, 1, 50, 60), (16, 1, 70, 75), (0, 2, 10, 5), (4, 2, 20, 15), (16, 2, 30, 25)]
    found = repaired(pd.DataFrame(rows, columns=columns)).set_index("subnetwork")
    assert found.loc[1].to_dict() == pytest.approx({"trained": 60, "given": 30, "share": 0.5, "epochs": 16})
    assert found["given"][2] == -5 and np.isnan(found["epochs"][2])


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


def test_levers_are_set_against_the_base_that_was_trained_equally_long():
    (rdn, _), base = fake_runs(200), fake_base(200)
    rdn.result["config"] = {}
    alone = replace(rdn, result={**rdn.result, "config": {"trained": [2]}})
    profile = SimpleNamespace(
        rdn=SimpleNamespace(init="reconstruct"),
        variants={"late": SimpleNamespace(changes=lambda: {"plain": 0.4})},
        alone=[2],
    )
    runs = {
        "base": [base] * 3,
        "base-longer": [base] * 3,
        "rdn-reconstruct": [rdn] * 3,
        "rdn-late": [rdn],
        "alone-2": [alone] * 2,
    }

    def together(*names):
        return [runs[name][: min(len(runs[each]) for each in names)] for name in names]

    evidence = SimpleNamespace(profile=profile, together=together)
    table = lever_table(evidence)
    assert table["variant"].tolist() == ["as it is"] * 3 + ["late"] * 3 + ["N_2 alone"]
    assert table["subnetwork"].tolist() == [1, 2, 3, 1, 2, 3, 2]
    assert table["seeds"].tolist() == [3, 3, 3, 1, 1, 1, 2]  # each at all of its own
    assert table["changes"].tolist()[3] == {"plain": 0.4}
    rows, wanted = (run.frame.query("split == 'validation'") for run in (rdn, base))
    for row in table.itertuples():
        correct = rows[f"top1_{row.subnetwork}"].mean()
        assert row.top1 == pytest.approx(100 * correct)
        assert row.gap == pytest.approx(100 * (correct - wanted["top1_1"].mean()))
        assert row.share == MADDS[row.subnetwork - 1] / 30_000_000
    lines = results.verdict_on_levers(table)
    assert len(lines) == 2 and lines[1].startswith("**late**")
    assert (
        results.changes_in_words({"plain": ["stem", "a"], "recipe": {"lr": 0.1}})
        == "plain part: stem, a; learning rate: 0.1"
    )
    assert results.changes_in_words({}) == "–"
    plt.close(results.lever_figure(table, accuracy([base], 1)))

"""Grids and Table 2 from made-up outcomes whose answers are known, and the pictures of them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from support.fakes import FakeRun
from support.networks import grid_of

from rdnlib.errors import DataError
from rdnlib.order import best_order, order_table
from rdnlib.reproduction.analysis.grids import grid_table, table2
from rdnlib.reproduction.analysis.outcomes import interval
from rdnlib.reproduction.book import nesting
from rdnlib.reproduction.experiments import graph
from rdnlib.reproduction.experiments.config import load_profile

NODES = [[i, j] for j in (0, 1) for i in (1, 2)]


def run_of(accuracies, *, nodes=None, n=400, seed=0) -> FakeRun:
    """A run whose sub-networks are right for just these shares of the validation images; calibration is all wrong."""
    rng = np.random.default_rng(seed)
    columns = {"id": rng.permutation(2 * n), "split": ["validation"] * n + ["calibration"] * n}
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
    pairs = {"A": (run_of([0.2, 0.75]), run_of([0.1, 0.2, 0.3, 0.7])), "B": (run_of([0.2, 0.5]), run_of([0.1, 0.5]))}
    table, differences = table2(pairs)
    assert table["top1"].tolist() == [75, 70, 50, 50]
    assert table["integrated_nets"].tolist() == ["2 sub-networks", "4 sub-networks", "2 sub-networks", "2 sub-networks"]
    assert differences["difference"].tolist() == pytest.approx([-5, 0])
    assert (differences["low"] <= differences["difference"]).all()
    assert differences["high"][0] < 0  # twenty of four hundred images, all in one direction
    assert differences.loc[1, ["low", "high"]].tolist() == [0, 0]


def test_table2_refuses_other_images():
    other = run_of([0.5])
    other.frame["id"] += 1
    with pytest.raises(DataError, match="not measured on the same images"):
        table2({"A": (run_of([0.5]), other)})


@pytest.mark.parametrize("name", ["tiny", "quick", "laptop"])
def test_profiles_train_fair_pairs_for_table2(name):
    profile = load_profile(name)
    nodes = graph.experiments(profile, 0)
    assert set(graph.table2(profile)) == {"mobilenext", "mobilenet_v2"}
    for seven, fourteen in graph.table2(profile).values():
        ours = {key: value for key, value in nodes[fourteen].config.items() if key != "split"}
        assert ours == nodes[seven].config
        assert nodes[fourteen].parents == nodes[seven].parents


def test_the_pictures_show_every_block_and_every_node(images):
    rdn = grid_of("resnext50", images)
    drawn = [text.get_text() for text in nesting.depth_split(rdn).axes[0].texts]
    for part, times in ((rdn.front, 2), (rdn.back, 2), (rdn.early_exit, 1)):  # two of them before and after
        blocks = nesting.blocks_of(part)
        assert sum(name.count(".") < 2 for name, _ in blocks) == len(blocks) > 1
        for name, channels in blocks:
            assert drawn.count(f"{name.removeprefix('early_exit.')} · {channels}") == times
    figure = nesting.nesting_order(order_table(grid_table(run_of([0.5, 0.6, 0.7, 0.8], nodes=NODES))))
    grid, plane = figure.axes
    assert {tuple(point) for line in grid.lines if line.get_marker() != "None" for point in line.get_xydata()} == set(
        map(tuple, NODES)
    )
    assert [text.get_text() for text in plane.texts] == ["1,0", "2,0", "1,1", "2,1"]
    plt.close("all")

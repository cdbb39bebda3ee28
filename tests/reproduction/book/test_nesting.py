"""The pictures of depth-wise nesting: every block and every node is there."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from support.networks import grid_of

from rdnlib.order import order_table
from rdnlib.reproduction.book import nesting


def test_the_pictures_show_every_block_and_every_node(images):
    rdn = grid_of("resnext50", images)
    drawn = [text.get_text() for text in nesting.depth_split(rdn).axes[0].texts]
    for part, times in ((rdn.front, 2), (rdn.back, 2), (rdn.early_exit, 1)):  # two of them before and after
        blocks = nesting.blocks_of(part)
        assert sum(name.count(".") < 2 for name, _ in blocks) == len(blocks) > 1
        for name, channels in blocks:
            assert drawn.count(f"{name.removeprefix('early_exit.')} · {channels}") == times
    plt.close("all")


def test_the_order_is_drawn_on_the_grid_and_by_cost():
    nodes = [(i, j) for j in (0, 1) for i in (1, 2)]
    grid = pd.DataFrame(nodes, columns=["width", "depth"])
    accuracy = pd.Series([50.0, 60.0, 70.0, 80.0])
    grid = grid.assign(madds=[10, 20, 30, 40], accuracy=accuracy, low=accuracy - 1, high=accuracy + 1)
    table = order_table(grid)
    grid, plane = nesting.nesting_order(table).axes
    marked = {tuple(point) for line in grid.lines if line.get_marker() != "None" for point in line.get_xydata()}
    assert marked == set(nodes)
    chosen = table[table["place"] > 0]
    assert [text.get_text() for text in plane.texts] == [f"{row.width},{row.depth}" for row in chosen.itertuples()]
    hollow = {tuple(line.get_xydata()[0]) for line in plane.lines if line.get_fillstyle() == "none"}
    skipped = table[table["place"] == 0]
    assert hollow == set(zip(skipped["madds"] / 1e6, skipped["accuracy"], strict=True)) and hollow
    plt.close("all")


@pytest.mark.parametrize(
    ("hull", "text"),
    [
        ((True, False, True), "skips (2, 1). It visits every corner"),
        ((True, True, True), "Its area is 20.00% smaller than that of the upper convex hull"),
    ],
)
def test_an_order_in_words(hull, text):
    table = pd.DataFrame({"width": [1, 2, 2], "depth": [1, 1, 2], "madds": [0.0, 1.0, 2.0]})
    table = table.assign(accuracy=[20.0, 60.0, 60.0], place=[1, 0, 2], hull=hull)  # areas: 80 of 100
    words = nesting.order_in_words(table)
    assert words.startswith("The order visits 2 of 3 sub-networks and") and text in words
    assert nesting.order_in_words(table.assign(place=[1, 2, 3])).startswith(
        "The order visits 3 of 3 sub-networks and skips none."
    )


def test_a_loss_that_rounds_to_nothing_is_not_called_everything():
    table = pd.DataFrame(
        {"width": [1, 2, 2], "depth": [1, 1, 2], "madds": [0.0, 1.0, 2.0], "accuracy": [50.0, 50.001, 50.0]}
    )
    words = nesting.order_in_words(table.assign(place=[1, 0, 2], hull=True))
    assert "less than 0.01 % smaller" in words and "100" not in words

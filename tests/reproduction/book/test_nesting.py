"""The pictures of depth-wise nesting: every block and every node is there."""

import matplotlib.pyplot as plt
import pandas as pd
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

"""The pictures of the structure show what the graph says: every block, every connection, every owner."""

import xml.etree.ElementTree as ElementTree
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from support.networks import build

from rdnlib import to_rdn
from rdnlib.errors import ConfigError
from rdnlib.graph import is_dense, trace
from rdnlib.nn.conv import NestedConv2d
from rdnlib.reproduction.book import structure, style
from rdnlib.surgery.layout import plan

BLOCKS = {"mobilenext": "blocks.3", "mobilenet_v2": "features.5", "resnext50": "layer3.1", "mixed": "excite"}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def rdns(images):
    return {name: to_rdn(build(name, images), 4, select="identity") for name in BLOCKS}


def cells(ax) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def nested(rdn, prefix) -> list[NestedConv2d]:
    within = [step for step in rdn.trunk.steps if step.function is None and f"{step.target}.".startswith(f"{prefix}.")]
    layers = [rdn.trunk.layers[step.name] for step in within]
    return [layer for layer in layers if isinstance(layer, NestedConv2d)]


@pytest.mark.parametrize(
    ("prefix", "count"), [("blocks.2", 16), ("blocks.3", 19)]
)  # blocks.2 reads a plain space first
def test_blocks_of_a_layer_before_and_after(rdns, prefix, count):
    layer = nested(rdns["mobilenext"], prefix)[0]
    before, after = structure.layer_blocks(layer).axes
    assert (len(cells(before)), len(cells(after))) == (16, count)
    # The six violating blocks change place, not owner: hatched on both sides, in the same colours.
    moved = [[cell.get_facecolor() for cell in cells(ax) if cell.get_hatch()] for ax in (before, after)]
    assert len(moved[0]) == 6 and sorted(moved[0]) == sorted(moved[1])
    in_row = Counter(cell.get_y() for cell in cells(after))
    assert [in_row[y] for y in sorted(in_row)] == [len(row) for row in layer.sources]


def test_a_subnetwork_has_no_picture_of_all_blocks(rdns):
    layer = nested(rdns["mobilenext"], "blocks.3")[0].restrict(3)
    with pytest.raises(ConfigError, match="sub-network"):
        structure.layer_blocks(layer)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_connection_of_a_block_is_a_line(rdns, name):
    rdn, prefix = rdns[name], BLOCKS[name]
    figure = structure.network_block(rdn, prefix)
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    layers = nested(rdn, prefix)
    assert len(dashed) == 6 * len(layers)  # k = 4: three, two and one violating inputs
    solid = [line for line in figure.axes[0].lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2]
    kept = 13 * len(layers)  # 10 original blocks and 3 of the new groups' own
    assert len(solid) >= kept and (len(solid) - kept) % 7 == 0  # channel-wise layers and additions: seven lines each
    residuals = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 4]
    assert len(residuals) == 1
    assert len(cells(figure.axes[0])) % 7 == 0


def test_the_same_block_gives_the_same_svg(rdns):
    one, other = (style.svg(structure.network_block(rdns["resnext50"], "layer3.0")) for _ in range(2))
    assert one == other
    ElementTree.fromstring(one)


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 3, 5])
def test_any_k_can_be_drawn(small, k):
    rdn = to_rdn(small, k, select="identity")
    figure = structure.network_block(rdn, "blocks.2")  # its input is plain
    assert len(cells(figure.axes[0])) == k + 3 * (2 * k - 1)
    structure.layer_blocks(nested(rdn, "blocks.2")[1], title="expand")


def test_an_unknown_block_is_named(rdns):
    with pytest.raises(ConfigError, match=r"'blocks\.99'"):
        structure.network_block(rdns["mobilenext"], "blocks.99")


SIZES = [8] * 7
ROWS = [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), (4, 5), (3, 4, 6), (2, 3, 4, 7)]  # k = 4, by hand


def test_blocks_are_those_of_figure_3():
    ax = structure.weight_blocks(ROWS, k=4, inputs=SIZES, outputs=SIZES).axes[0]
    assert len(cells(ax)) == 19  # 10 kept, 6 moved, 3 new
    moved = {(cell.get_x() // 8 + 1, cell.get_y() // 8 + 1) for cell in cells(ax) if cell.get_hatch()}
    assert moved == {(4, 5), (3, 6), (4, 6), (2, 7), (3, 7), (4, 7)}
    assert [text.get_text() for text in ax.texts] == ["new"] * 3


def test_the_dense_convolution_says_where_its_violating_blocks_go():
    ax = structure.weight_blocks(ROWS[:4], k=4, inputs=SIZES[:4], outputs=SIZES[:4]).axes[0]
    assert len(cells(ax)) == 16
    assert {(cell.get_x() // 8 + 1, cell.get_y() // 8 + 1) for cell in cells(ax) if cell.get_hatch()} == {
        (i, j) for j in range(1, 5) for i in range(j + 1, 5)
    }
    assert [text.get_text() for text in ax.texts] == ["7", "7", "7", "6", "6", "5"]


def test_unequal_groups_are_drawn_to_scale():
    ax = structure.weight_blocks([(1,), (1, 2), (2, 3)], k=2, inputs=[3, 2, 3], outputs=[6, 4, 6]).axes[0]
    last = cells(ax)[-1]
    assert (last.get_x(), last.get_y(), last.get_width(), last.get_height()) == (5, 10, 3, 6)


def test_groups_that_do_not_exist_are_named():
    with pytest.raises(ConfigError, match="output group"):
        structure.weight_blocks(ROWS, k=4, inputs=SIZES[:4], outputs=SIZES)


def test_channel_spaces_are_counted_with_the_convolutions_that_write_them(images):
    network = build("mobilenext", images)
    layout = plan(trace(network), k=4, plain=network.plain_by_default)
    spaces = structure.channel_spaces(layout)
    dense = [step for step in layout.traced.steps if is_dense(step.module)]
    assert spaces["writers"].sum() == len(dense)
    assert spaces["channels"].iloc[0] == network.stem[0].out_channels and spaces["plain"].iloc[0]
    assert (spaces["nested"] == spaces["channels"]).equals(spaces["plain"])


def test_each_round_shows_what_is_taken_and_what_is_left():
    scores = np.arange(18.0).reshape(2, 9)  # k − 1 = 2 rounds
    order = np.arange(9)[::-1]
    for g, ax in enumerate(structure.selection_rounds(scores, order, k=3).axes):
        left, taken = ax.containers
        assert [bar.get_height() for bar in taken] == list(scores[g, order][3 * g : 3 * g + 3])
        assert [bar.get_height() for bar in left] == list(scores[g, order][3 * g + 3 :])
        assert to_hex(taken[0].get_facecolor()) == style.owner_colour(g + 1).lower()
        assert ax.get_ylabel() == f"round {g + 1}"

"""The pictures of the structure show what the graph says: every block, every connection, every owner."""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from itertools import pairwise

import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import Rectangle
from support.networks import build

from rdnlib import to_rdn
from rdnlib.errors import ConfigError
from rdnlib.nn.conv import NestedConv2d
from rdnlib.policy.network import PolicyNetwork
from rdnlib.reproduction.book import figures, structure

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
    one, other = (figures.svg(structure.network_block(rdns["resnext50"], "layer3.0")) for _ in range(2))
    assert one == other
    ElementTree.fromstring(one)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_any_k_can_be_drawn(small, k):
    rdn = to_rdn(small, k, select="identity")
    figure = structure.network_block(rdn, "blocks.2")  # its input is plain
    assert len(cells(figure.axes[0])) == k + 3 * (2 * k - 1)
    structure.layer_blocks(nested(rdn, "blocks.2")[1], title="expand")


def test_an_unknown_block_is_named(rdns):
    with pytest.raises(ConfigError, match=r"'blocks\.99'"):
        structure.network_block(rdns["mobilenext"], "blocks.99")


@pytest.mark.parametrize("features, hidden, outputs", [(5, [4], 3), (24, [64], 7), (12, [30, 8], 1), (12, [], 3)])
def test_a_policy_network_is_drawn_with_its_sizes(features, hidden, outputs):
    """All units of small layers, a few of large ones; every drawn unit reads every drawn unit before it."""
    figure = structure.policy_network(PolicyNetwork(features, outputs, hidden))
    (ax,) = figure.axes
    sizes = [features, *hidden, outputs]
    drawn = [size if size <= structure.MOST_UNITS else structure.MOST_UNITS - 1 for size in sizes]
    assert [len(units.get_offsets()) for units in ax.collections] == drawn
    assert len(ax.lines) == sum(a * b for a, b in pairwise(drawn))
    written = [text.get_text() for text in ax.texts]
    assert sum(text.startswith(f"{size} ") for size in sizes for text in written) >= len(sizes)
    assert sum("right?" in text for text in written) == outputs

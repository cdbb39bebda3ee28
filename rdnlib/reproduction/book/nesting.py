"""Depth-wise nesting, drawn from the network's own graph (Figure 5), and the nesting order, drawn (Figure 6) and in words."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch

from rdnlib.nn.depth_nesting import DepthwiseRDN
from rdnlib.nn.rdn import Trunk
from rdnlib.reproduction.book.figures import text_box
from rdnlib.reproduction.book.style import INK, YELLOW, legend_below, owner_colour, styled

PARTS = {"front": "#c3cad1", "early_exit": YELLOW, "back": "#7d8790"}  # no colour of a sub-network
BLOCK = 1.25  # width of a block of the trunk
HEAD = "#404b57"
LABELS = {"front": "in front of the cut", "early_exit": "early exit (new)", "back": "behind the cut"}


def blocks_of(trunk: Trunk) -> list[tuple[str, int]]:
    """The blocks of a trunk in order: their names, and the channels that each hands on (all groups)."""
    last = {}
    for step in trunk.steps:
        if step.function is None and next(trunk.layers[step.name].parameters(), None) is not None:
            last[".".join(step.target.split(".")[:2])] = trunk.spaces[step.name].channels_nested
    return list(last.items())


@styled
def depth_split(rdn: DepthwiseRDN) -> Figure:
    """The network before and after it is split along its depth, block by block from top to bottom (Figure 5).

    Left, N_k with its head; right, N_{k,0}, which leaves through the early exit, and N_{k,1}, which goes on behind the cut.
    """
    parts = {part: [(*block, part) for block in blocks_of(getattr(rdn, part))] for part in PARTS}
    trunk, branch = parts["front"] + parts["back"], len(parts["front"])
    rows, (left, middle, right), wide = len(trunk), (0, 1.4, 2.8), 1.8
    figure, ax = plt.subplots(figsize=(5.6, 1.4 + 0.24 * rows))
    _column(ax, left, 0, trunk, "$N_k$")
    _column(ax, middle, 0, trunk, "$N_{k,1}$")
    _column(ax, right, branch + 0.5, parts["early_exit"], "$N_{k,0}$", width=wide)
    start, end = (middle + BLOCK, branch - 0.5), (right + wide / 2, branch + 0.45)
    arrow = {"arrowstyle": "-|>", "mutation_scale": 10, "color": INK, "linewidth": 1.0}
    ax.add_patch(FancyArrowPatch(start, end, connectionstyle="angle,angleA=0,angleB=90", **arrow))
    for x, text in ((left + BLOCK / 2, "one network"), ((middle + right + wide) / 2, "two nested networks")):
        ax.text(x, -0.6, text, ha="center", va="bottom", color=INK)
    ax.set(xlim=(-0.05, right + wide + 0.05), ylim=(rows + 2.2, -1.8))
    ax.axis("off")
    handles = [Patch(facecolor=PARTS[part], label=LABELS[part]) for part in PARTS]
    handles.append(Patch(facecolor=HEAD, label="head"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _column(
    ax: Axes, x: float, top: float, blocks: list[tuple[str, int, str]], head: str, width: float = BLOCK
) -> None:
    for row, (name, channels, part) in enumerate(blocks):
        text = f"{name.removeprefix('early_exit.')} · {channels}"
        text_box(ax, (x, top + row), (width, 0.92), PARTS[part], text, fontsize=11)
    text_box(ax, (x + width / 2 - 0.4, top + len(blocks) + 0.25), (0.8, 1.3), HEAD, head, fontsize=11)


@styled
def nesting_order(table: pd.DataFrame) -> Figure:
    """The chosen order on the grid, and among all sub-networks by cost and accuracy (Figure 6, both panels).

    Colour: the width; marker: the depth; hollow: skipped. table: as `order.order_table` makes it, accuracy in per cent; columns `low` and
    `high` are drawn as intervals if there.
    """
    chosen = table[table["place"] > 0].sort_values("place")
    figure, (grid, plane) = plt.subplots(2, 1, figsize=(5.6, 6.8), height_ratios=(1, 2.4))
    widths, depths = np.unique(table["width"]), np.unique(table["depth"])
    grid.hlines(depths, widths[0], widths[-1], color=INK, alpha=0.3, linewidth=1)
    grid.vlines(widths, depths[0], depths[-1], color=INK, alpha=0.3, linewidth=1)
    for a, b in pairwise(chosen.itertuples()):
        arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.6, "shrinkA": 7, "shrinkB": 7}
        bend = {"connectionstyle": "arc3,rad=-0.25"} if a.depth == b.depth and b.width - a.width > 1 else {}
        grid.annotate("", (b.width, b.depth), (a.width, a.depth), arrowprops={**arrow, **bend})
    cost = table["madds"] / 1e6
    plane.plot(cost[table["hull"]], table["accuracy"][table["hull"]], color=INK, linestyle=":", label="convex hull")
    plane.plot(chosen["madds"] / 1e6, chosen["accuracy"], color=INK, linewidth=1.2, label="chosen order")
    if {"low", "high"} <= set(table):
        spread = np.abs([table["accuracy"] - table["low"], table["high"] - table["accuracy"]])
        plane.errorbar(cost, table["accuracy"], spread, color=INK, alpha=0.35, linestyle="none", zorder=0)
    for row in table.itertuples():
        look = {"color": owner_colour(row.width), "marker": "os"[depths.tolist().index(row.depth) % 2], "markersize": 8}
        look |= {} if row.place else {"fillstyle": "none", "markeredgewidth": 2}
        grid.plot(row.width, row.depth, **look)
        plane.plot(row.madds / 1e6, row.accuracy, **look)
        if row.place:
            where, above = (row.madds / 1e6, row.accuracy), {"xytext": (-5, 8), "textcoords": "offset points"}
            plane.annotate(f"{row.width},{row.depth}", where, ha="right", **above)
    grid.set(xlabel="width $i$", ylabel="depth $j$", xticks=widths, yticks=depths)
    grid.grid(False)
    grid.margins(x=0.06, y=0.35)
    plane.set(xlabel="MAdds per image (millions)", ylabel="top-1 accuracy (%)")
    plane.margins(0.1)
    dots = (
        {"color": INK, "marker": "os"[number % 2], "label": f"depth {depth}"} for number, depth in enumerate(depths)
    )
    lines = ({"color": INK, "label": "chosen order"}, {"color": INK, "linestyle": ":", "label": "convex hull"})
    hollow = {"color": INK, "marker": "o", "fillstyle": "none", "linestyle": "none", "label": "skipped"}
    legend_below(figure, *lines, *({**dot, "linestyle": "none"} for dot in dots), hollow, ncols=3)
    return figure


def order_in_words(table: pd.DataFrame) -> str:
    """What the order of `order_table` visits and skips, and how its area stands to that of the convex hull."""
    chosen, hull = table[table["place"] > 0], table[table["hull"]]
    skipped = [f"({row.width}, {row.depth})" for row in table[table["place"] == 0].itertuples()]
    left_out = f"skips {', '.join(skipped)}" if skipped else "skips none"
    text = f"The order visits {len(chosen)} of {len(table)} sub-networks and {left_out}."
    unreached = hull[hull["place"] == 0]
    if unreached.empty:
        return f"{text} It visits every corner of the upper convex hull, so no order can have a larger area."
    area, bound = (np.trapezoid(rows["accuracy"], rows["madds"]) for rows in (chosen.sort_values("place"), hull))
    lost = f"{1 - area / bound:.2%}" if round(1 - area / bound, 4) else "less than 0.01 %"
    corners = ", ".join(f"({row.width}, {row.depth})" for row in unreached.itertuples())
    return (
        f"{text} Its area is {lost} smaller than that of the upper convex hull, which no order can exceed. Of the hull's corners it skips "
        f"{corners}: no order visits all of them, since each sub-network of an order must contain the one before."
    )

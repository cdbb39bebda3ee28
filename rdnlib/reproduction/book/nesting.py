"""Pictures of depth-wise nesting, drawn from the network's own graph (Figure 5), and of the nesting order (Figure 6)."""

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
from rdnlib.reproduction.book.style import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILLION, legend_below, styled

PARTS = {"front": BLUE, "early_exit": ORANGE, "back": GREEN}
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
    rows = len(trunk)
    figure, ax = plt.subplots(figsize=(5.6, 1.2 + 0.22 * rows))
    _column(ax, 0, 0, trunk, "$N_k$")
    _column(ax, 1.7, 0, trunk, "$N_{k,1}$")
    _column(ax, 3.2, branch + 0.5, parts["early_exit"], "$N_{k,0}$")
    start, end = (1.7 + 1.2, branch - 0.5), (3.2 + 0.6, branch + 0.45)
    arrow = {"arrowstyle": "-|>", "mutation_scale": 10, "color": INK, "linewidth": 1.0}
    ax.add_patch(FancyArrowPatch(start, end, connectionstyle="angle,angleA=0,angleB=90", **arrow))
    for x, text in ((0.6, "one network"), (1.7 + 1.3, "two nested networks")):
        ax.text(x, -0.6, text, ha="center", va="bottom", color=INK)
    ax.set(xlim=(-0.1, 4.5), ylim=(rows + 2.2, -1.8))
    ax.axis("off")
    handles = [Patch(facecolor=PARTS[part], label=LABELS[part]) for part in PARTS]
    handles.append(Patch(facecolor=PURPLE, label="head of its own, shared classifier"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _column(ax: Axes, x: float, top: float, blocks: list[tuple[str, int, str]], head: str) -> None:
    for row, (name, channels, part) in enumerate(blocks):
        text = f"{name.removeprefix('early_exit.')} · {channels}"
        text_box(ax, (x, top + row), (1.2, 0.92), PARTS[part], text, fontsize=7.5)
    text_box(ax, (x + 0.2, top + len(blocks) + 0.25), (0.8, 1.2), PURPLE, head, fontsize=10)


@styled
def nesting_order(table: pd.DataFrame) -> Figure:
    """The chosen order on the grid, and among all sub-networks by cost and accuracy (Figure 6, both panels).

    table: as `order.order_table` makes it, accuracy in per cent; columns `low` and `high` are drawn as intervals if there.
    """
    chosen = table[table["place"] > 0].sort_values("place")
    skipped = table[table["place"] == 0]
    figure, (grid, plane) = plt.subplots(2, 1, figsize=(5.6, 6.4), height_ratios=(1, 2.2))
    widths, depths = np.unique(table["width"]), np.unique(table["depth"])
    grid.hlines(depths, widths[0], widths[-1], color=INK, alpha=0.3, linewidth=1)
    grid.vlines(widths, depths[0], depths[-1], color=INK, alpha=0.3, linewidth=1)
    for a, b in pairwise(chosen.itertuples()):
        arrow = {"arrowstyle": "-|>", "color": VERMILLION, "linewidth": 1.6, "shrinkA": 7, "shrinkB": 7}
        bend = {"connectionstyle": "arc3,rad=-0.25"} if a.depth == b.depth and b.width - a.width > 1 else {}
        grid.annotate("", (b.width, b.depth), (a.width, a.depth), arrowprops={**arrow, **bend})
    skips, picks = {"color": BLUE, "marker": "o", "linestyle": "none"}, {"color": VERMILLION, "marker": "D"}
    grid.plot(skipped["width"], skipped["depth"], markersize=7, **skips)
    grid.plot(chosen["width"], chosen["depth"], markersize=8, linestyle="none", **picks)
    grid.set(xlabel="width $i$", ylabel="depth $j$", xticks=widths, yticks=depths)
    grid.grid(False)
    grid.margins(x=0.06, y=0.35)

    def points(rows: pd.DataFrame) -> tuple:
        return rows["madds"] / 1e6, rows["accuracy"]

    plane.plot(*points(table[table["hull"]]), color=INK, linestyle=":", label="convex hull")
    plane.plot(*points(chosen), markersize=7, label="chosen order", **picks)
    plane.plot(*points(skipped), markersize=6, label="skipped", **skips)
    if {"low", "high"} <= set(table):
        spread = np.abs([table["accuracy"] - table["low"], table["high"] - table["accuracy"]])
        plane.errorbar(*points(table), spread, color=INK, alpha=0.35, linestyle="none", zorder=0)
    for row in table.itertuples():
        text, where = f"{row.width},{row.depth}", (row.madds / 1e6, row.accuracy)
        offset, side = ((-5, 7), "right") if row.place else ((5, -11), "left")
        plane.annotate(text, where, xytext=offset, textcoords="offset points", fontsize=8, ha=side)
    plane.set(xlabel="MAdds per image (millions)", ylabel="top-1 accuracy (%)")
    plane.margins(0.08)
    legend_below(figure, ncols=3)
    return figure

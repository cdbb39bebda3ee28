"""Pictures of depth-wise nesting, drawn from the network's own graph (Figure 5), and of the nesting order (Figure 6)."""

from itertools import groupby, pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle

from rdnlib.nn.depthwise import DepthwiseRDN
from rdnlib.nn.rdn import Trunk
from rdnlib.reproduction.book.style import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILLION, styled

PARTS = {"front": BLUE, "early_exit": ORANGE, "back": GREEN}
LABELS = {"front": "in front of the cut", "early_exit": "early exit (new)", "back": "behind the cut"}
BOX = {"linewidth": 0.8, "edgecolor": "white"}


def blocks_of(trunk: Trunk) -> list[tuple[str, int]]:
    """The blocks of a trunk in order: their names, and the channels that each hands on (all groups)."""
    named = [
        step
        for step in trunk.steps
        if step.function is None and any(True for _ in trunk.layers[step.name].parameters())
    ]
    found = []
    for name, steps in groupby(named, key=lambda step: ".".join(step.target.split(".")[:2])):
        found.append((name, trunk.spaces[list(steps)[-1].name].channels_nested))
    return found


@styled
def depth_split(rdn: DepthwiseRDN) -> Figure:
    """The network before and after it is split along its depth, block by block from top to bottom (Figure 5).

    Left, N_k with its head; right, N_{k,0}, which leaves through the early exit, and N_{k,1}, which goes on behind the cut.
    """
    parts = {name: blocks_of(getattr(rdn, name)) for name in PARTS}
    rows = len(parts["front"]) + len(parts["back"])
    figure, ax = plt.subplots(figsize=(5.6, 1.2 + 0.22 * rows))
    trunk = [(*block, part) for part in ("front", "back") for block in parts[part]]
    _column(ax, 0, 0, trunk)
    _head(ax, 0, rows, "$N_k$")
    _column(ax, 1.7, 0, trunk)
    _head(ax, 1.7, rows, "$N_{k,1}$")
    branch = len(parts["front"])
    early_exit = [(*block, "early_exit") for block in parts["early_exit"]]
    _column(ax, 3.2, branch + 0.5, early_exit)
    _head(ax, 3.2, branch + 0.5 + len(early_exit), "$N_{k,0}$")
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


def _column(ax: Axes, x: float, top: float, blocks: list[tuple[str, int, str]]) -> None:
    for row, (name, channels, part) in enumerate(blocks):
        ax.add_patch(Rectangle((x, top + row), 1.2, 0.92, facecolor=PARTS[part], **BOX))
        text = f"{name.removeprefix('early_exit.')} · {channels}"
        colour = "white" if part == "front" else "black"
        ax.text(x + 0.6, top + row + 0.46, text, ha="center", va="center", fontsize=7.5, color=colour)


def _head(ax: Axes, x: float, top: float, text: str) -> None:
    ax.add_patch(Rectangle((x + 0.2, top + 0.25), 0.8, 1.2, facecolor=PURPLE, **BOX))
    ax.text(x + 0.6, top + 0.85, text, ha="center", va="center", fontsize=10, color="black")


@styled
def nesting_order(table: pd.DataFrame) -> Figure:
    """The chosen order on the grid, and among all sub-networks by cost and accuracy (Figure 6, both panels).

    table: as `order.order_table` makes it, accuracy in per cent; columns `low` and `high` are drawn as intervals if there.
    """
    chosen = table[table["place"] > 0].sort_values("place")
    skipped = table[table["place"] == 0]
    figure, (grid, plane) = plt.subplots(2, 1, figsize=(5.6, 6.4), height_ratios=(1, 2.2))
    widths, depths = np.unique(table["width"]), np.unique(table["depth"])
    for depth in depths:
        grid.plot(widths, np.full(len(widths), depth), color=INK, alpha=0.3, linewidth=1)
    for width in widths:
        grid.plot(np.full(len(depths), width), depths, color=INK, alpha=0.3, linewidth=1)
    for a, b in pairwise(chosen.itertuples()):
        arrow = {"arrowstyle": "-|>", "color": VERMILLION, "linewidth": 1.6, "shrinkA": 7, "shrinkB": 7}
        bend = {"connectionstyle": "arc3,rad=-0.25"} if a.depth == b.depth and b.width - a.width > 1 else {}
        grid.annotate("", (b.width, b.depth), (a.width, a.depth), arrowprops={**arrow, **bend})
    grid.plot(skipped["width"], skipped["depth"], color=BLUE, marker="o", linestyle="none", markersize=7)
    grid.plot(chosen["width"], chosen["depth"], color=VERMILLION, marker="D", linestyle="none", markersize=8)
    grid.set(xlabel="width $i$", ylabel="depth $j$", xticks=widths, yticks=depths)
    grid.grid(False)
    grid.margins(x=0.06, y=0.35)

    hull = table[table["hull"]]
    legend = {}
    (legend["convex hull"],) = plane.plot(hull["madds"] / 1e6, hull["accuracy"], color=INK, linestyle=":")
    (legend["chosen order"],) = plane.plot(
        chosen["madds"] / 1e6, chosen["accuracy"], color=VERMILLION, marker="D", markersize=7
    )
    (legend["skipped"],) = plane.plot(
        skipped["madds"] / 1e6, skipped["accuracy"], color=BLUE, marker="o", linestyle="none", markersize=6
    )
    if {"low", "high"} <= set(table):
        spread = np.abs([table["accuracy"] - table["low"], table["high"] - table["accuracy"]])
        plane.errorbar(
            table["madds"] / 1e6, table["accuracy"], spread, color=INK, alpha=0.35, linestyle="none", zorder=0
        )
    for row in table.itertuples():
        text, where = f"{row.width},{row.depth}", (row.madds / 1e6, row.accuracy)
        below = row.place == 0
        plane.annotate(
            text, where, xytext=(5, -11) if below else (-5, 7), textcoords="offset points", fontsize=8,
            ha="left" if below else "right",
        )  # fmt: skip
    plane.set(xlabel="MAdds per image (millions)", ylabel="top-1 accuracy (%)")
    plane.margins(0.08)
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=3)
    return figure

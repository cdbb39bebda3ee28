"""Pictures of the networks themselves: channel spaces, greedy select, the blocks of a layer and of a block (Figures 2–4).

Colour says which sub-network owns a group, a weight block or a connection, as in Figure 2 of the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rdnlib.errors import ConfigError
from rdnlib.graph.ir import Call, Step, is_dense
from rdnlib.madds import kind
from rdnlib.nn.conv import NestedConv2d
from rdnlib.nn.groups import Space, split_channels
from rdnlib.nn.rdn import RDN
from rdnlib.reproduction.book.figures import text_box
from rdnlib.reproduction.book.style import GREY, INK, legend_below, owner_colour, styled
from rdnlib.surgery.layout import Layout


@styled
def weight_blocks(
    sources: Sequence[Sequence[int]], *, k: int, inputs: Sequence[int], outputs: Sequence[int], ax: Axes | None = None
) -> Figure:
    """The weight blocks of a convolution, to scale: row j is what output group j reads, in the colour of its owner (Figure 3).

    With only the k original output groups it is the dense convolution: blocks that violate nesting are hatched, in the colour
    and with the number of the new group that takes them over. With all K groups those stand hatched in their new rows.

    sources: for each output group the input groups, counted from 1, that it reads. k: number of original groups. inputs,
    outputs: channels of each input and output group: the widths of the columns, the heights of the rows.
    """
    if len(sources) != len(outputs) or any(not 1 <= i <= len(inputs) for row in sources for i in row):
        raise ConfigError("sources need one row per output group, with input groups counted from 1")
    ax = plt.subplots(figsize=(5.6, 5.0))[1] if ax is None else ax
    x, y = np.cumsum([0, *inputs]), np.cumsum([0, *outputs])
    dense = len(sources) == k
    for j, row in enumerate(sources, start=1):
        for i in range(1, len(inputs) + 1) if dense else row:
            moved, new = i not in row or (j > k and i != j), 2 * k - j  # `new` completes group j
            owner, text = (new, new) if i not in row else (j, "new" if j > k and not moved else None)
            size = inputs[i - 1], outputs[j - 1]
            text_box(ax, (x[i - 1], y[j - 1]), size, owner_colour(owner), text, hatched=moved, linewidth=1.0)
    ax.set(xlim=(0, x[-1]), ylim=(y[-1], 0), xlabel="input group", ylabel="output group")
    ax.set_xticks((x[:-1] + x[1:]) / 2, range(1, len(inputs) + 1))
    ax.set_yticks((y[:-1] + y[1:]) / 2, range(1, len(outputs) + 1))
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)
    if not ax.figure.legends:
        kinds = {"kept": None, "violates nesting → new group": "////"}
        handles = [Patch(facecolor=GREY, edgecolor="white", hatch=h, label=name) for name, h in kinds.items()]
        ax.figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return ax.figure


@styled
def layer_blocks(layer: NestedConv2d, *, title: str | None = None) -> Figure:
    """The weight blocks of one layer in the super-net, left, and in the RDN, right."""
    k = layer.k
    if len(layer.sources) < 2 * k - 1:
        raise ConfigError("only an RDN holds all blocks of a layer, a sub-network does not")
    columns = split_channels(layer.reads.channels, k)
    inputs = columns if layer.reads.plain else layer.reads.sizes
    figure, (before, after) = plt.subplots(1, 2, figsize=(5.6, 3.5), width_ratios=(k, len(inputs)))
    allowed = [range(1, j + 1) for j in range(1, k + 1)]
    weight_blocks(allowed, k=k, inputs=columns, outputs=layer.writes.sizes[:k], ax=before)
    weight_blocks(layer.sources, k=k, inputs=inputs, outputs=layer.writes.sizes, ax=after)
    before.set_title("in the super-net")
    after.set(title="in the RDN", ylabel=None)
    figure.suptitle(title, fontsize=11)
    return figure


@dataclass
class _Row:
    """One value of the schematic: its groups, what made it, and the rows that it was made from."""

    space: Space
    labels: list[str]
    step: Step | None = None
    parents: list[int] = field(default_factory=list)


def _rows(rdn: RDN, prefix: str) -> list[_Row]:
    """The part of the graph whose modules are named `prefix`.…, and the additions that end it."""
    steps, spaces = rdn.trunk.steps, rdn.trunk.spaces
    inside = [index for index, step in enumerate(steps) if f"{step.target}.".startswith(f"{prefix}.")]
    if not inside:
        raise ConfigError(f"no layer of the RDN is named '{prefix}' or lies under it")
    start, end = inside[0], inside[-1] + 1
    made = {step.name for step in steps[start:end]}
    while end < len(steps) and steps[end].function is not None and made & set(steps[end].inputs):
        made.add(steps[end].name)
        end += 1
    rows, row_of = [], {}

    def add(name: str, *row) -> None:
        row_of[name] = len(rows)
        rows.append(_Row(spaces[name], *row))

    add(steps[start].inputs[0], ["input"])
    for step in steps[start:end]:
        layer = None if step.function is not None else rdn.trunk.layers[step.name]
        for name in step.inputs:
            if name not in row_of:  # a value from further up
                add(name, ["from before"])
        parents = [row_of[name] for name in step.inputs]
        joins = isinstance(step.function, Call) and len(parents) > 1
        if joins or (hasattr(layer, "weight") and kind(layer) != "norm"):
            add(step.name, [("+" if step.adds else "×") if joins else kind(layer)], step, parents)
        else:  # channel-wise: the same groups
            name = "BN" if kind(layer) == "norm" else step.target if layer is None else type(layer).__name__
            rows[parents[0]].labels += [] if name in ("Identity", "Dropout") else [name]
            row_of[step.name] = parents[0]
    return rows


@styled
def network_block(rdn: RDN, prefix: str, *, title: str | None = None) -> Figure:
    """One block of the network after surgery, from its graph (Figure 4).

    Every row is a feature map, its cells are the groups, as wide as they have channels. Lines: which group reads which, in the
    colour of the reader; dashed where a new group takes over a violating connection. On the right: shortcuts, such as residuals.

    prefix: name of a module of the super-net, such as "blocks.5", whose layers are drawn.
    """
    rows = _rows(rdn, prefix)
    figure, ax = plt.subplots(figsize=(5.6, 0.72 * len(rows) + 0.6))
    widest = max(row.space.channels_nested for row in rows)
    spans = [_spans(row.space, rdn.k, widest) for row in rows]
    lanes = 0
    for index, (row, span) in enumerate(zip(rows, spans, strict=True)):
        _draw_row(ax, row, span, index, rdn.k)
        for parent in row.parents:
            if parent == index - 1:
                _connect(ax, rdn, row, spans[parent], span, index)
            else:
                # around the rows between on the right; every shortcut has a lane of its own
                right, y, end = 1.05 + 0.05 * lanes, (parent + 0.04, index - 0.04), span[-1][1]
                x = [spans[parent][-1][1], right, right, end + 0.02]
                ax.plot(x, np.repeat(y, 2), color=INK, linewidth=1.2)
                ax.plot(end + 0.015, y[1], color=INK, marker="<", markersize=5)
                lanes += 1
    ax.set(xlim=(-0.62, 1.08 + 0.05 * lanes), ylim=(len(rows) - 0.75, -0.25))
    ax.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=11)
    takes_over = {"label": "takes over a violating connection", "color": GREY, "linestyle": DASHES}
    shown = [{"label": "reads", "color": GREY}, takes_over]
    shown += [{"label": "shortcut", "color": INK, "linewidth": 1.2}] if lanes else []
    legend_below(figure, *shown)
    return figure


HALF = 0.14  # half the height of a row of cells
DASHES = (0, (3, 1.5))


def _spans(space: Space, k: int, widest: int) -> list[tuple[float, float]]:
    """Left end and right end of each group's cell, the row centred in [0, 1]; a plain space in the k parts that are read."""
    sizes = split_channels(space.channels, k) if space.plain else space.sizes
    ends = np.cumsum([0, *sizes]) / widest + (1 - sum(sizes) / widest) / 2
    return list(pairwise(ends))


def _draw_row(ax: Axes, row: _Row, span: list[tuple[float, float]], y: int, k: int) -> None:
    plain = row.space.plain
    for group, (left, right) in enumerate(span, start=1):
        colour, text = "none" if plain else owner_colour(group), group if right - left > 0.045 and not plain else None
        look = {"fontsize": 10.5, "zorder": 3, "edgecolor": INK if plain else "white"}
        text_box(ax, (left, y - HALF), (right - left, 2 * HALF), colour, text, **look)
    original, new = sum(row.space.sizes[:k]), sum(row.space.sizes[k:])
    channels = f"{original} plain" if plain else f"{original} + {new}"
    ax.text(-0.06, y - 0.02, " · ".join(row.labels), ha="right", va="bottom", fontsize=10.5)
    ax.text(-0.06, y + 0.02, f"{channels} channels", ha="right", va="top", fontsize=10.5)


def _connect(ax: Axes, rdn: RDN, row: _Row, upper, lower, index: int) -> None:
    """Lines from the groups of the row above to those that read them."""
    layer = rdn.trunk.layers[row.step.name] if row.step.function is None else None
    nested = isinstance(layer, NestedConv2d)
    sources = layer.sources if nested else [(group,) for group in range(1, len(lower) + 1)]
    for i, j in [(i, j) for j, read in enumerate(sources, start=1) for i in read]:
        moved = nested and j > rdn.k and i != j
        look = {"linestyle": DASHES if moved else "-", "linewidth": 1.1 if moved else 1.3, "zorder": 2}
        colour, x = GREY if row.space.plain else owner_colour(j), (sum(upper[i - 1]) / 2, sum(lower[j - 1]) / 2)
        ax.plot(x, [index - 1 + HALF, index - HALF], color=colour, **look)


def channel_spaces(layout: Layout) -> pd.DataFrame:
    """The channel spaces that dense convolutions write, in order: one row each.

    Columns: channels, nested (channels after the surgery), piece (channels that must stay together), plain, writers (how many).
    """
    writers = {}  # space → the convolutions that write it
    for step in layout.traced.steps:
        if is_dense(step.module):
            writers.setdefault(layout.traced.space_of[step.name], []).append(step.name)
    spaces = [(layout.space(names[0]), len(names)) for names in writers.values()]
    rows = [(space.channels, space.channels_nested, space.width, space.plain, count) for space, count in spaces]
    return pd.DataFrame(rows, columns=["channels", "nested", "piece", "plain", "writers"])


@styled
def selection_rounds(scores: np.ndarray, order: np.ndarray, *, k: int) -> Figure:
    """Algorithm 1 on one layer: the violation scores (k − 1 rounds, channels) of the channels that are left in each round.

    order: (channels,) the channels in the order in which they are taken.
    """
    figure, axes = plt.subplots(k - 1, 1, figsize=(5.6, 1.6 * (k - 1)), sharex=True, sharey=True, squeeze=False)
    ends = np.cumsum([0, *split_channels(len(order), k)])
    for g, (ax, score) in enumerate(zip(axes.flat, scores, strict=True), start=1):
        start, end = ends[g - 1 : g + 1]
        ax.bar(range(end, len(order)), score[order[end:]], color=INK, alpha=0.3, label="not taken")
        ax.bar(range(start, end), score[order[start:end]], color=owner_colour(g), label=f"taken for group {g}")
        ax.set(ylabel=f"round {g}")
        ax.legend(loc="upper left")
    ax.set(xlabel="output channels, in the order they are taken", xticks=[])
    figure.supylabel("violation score", fontsize=11)
    return figure

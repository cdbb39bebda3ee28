"""Pictures drawn from the networks themselves: the blocks of one layer and of one block of an RDN (Figures 2–4), and a policy
network (Figure 7).

Colour says which sub-network owns a group, a weight block or a connection, as in Figure 2 of the paper.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from rdnlib.errors import ConfigError
from rdnlib.graph.ir import Call, Step
from rdnlib.madds import kind
from rdnlib.nn.conv import NestedConv2d
from rdnlib.nn.groups import Space, split_channels
from rdnlib.nn.rdn import RDN
from rdnlib.policy.network import PolicyNetwork
from rdnlib.reproduction.book.figures import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, VERMILLION, YELLOW, styled

OWNERS = (BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE, "#999999", YELLOW)  # Okabe–Ito; yellow is faint on white: last
GREY = "#999999"


def owner_colour(group: int) -> str:
    """Colour of the sub-network that owns a group (from 1)."""
    return OWNERS[(group - 1) % len(OWNERS)]


def _on(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour."""
    linear = [(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
    return "black" if np.dot(linear, (0.2126, 0.7152, 0.0722)) > 0.18 else "white"


@styled
def layer_blocks(layer: NestedConv2d, *, title: str | None = None) -> Figure:
    """The weight blocks of one layer before and after surgery, to scale (Figure 3).

    Left, the super-net's k × k blocks: a hatched one violates nesting, and its number is the new group that takes it over.
    Right, the RDN's K × K: row j is what output group j reads, in the colour of its owner N_j.
    """
    k, last = layer.k, len(layer.sources)
    if last < 2 * k - 1:
        raise ConfigError("only an RDN holds all blocks of a layer, a sub-network does not")
    columns = split_channels(layer.reads.channels, k)
    inputs = columns if layer.reads.plain else layer.reads.sizes
    figure, (before, after) = plt.subplots(1, 2, figsize=(5.6, 3.5), width_ratios=(k, len(inputs)))
    for j in range(1, k + 1):
        for i in range(1, k + 1):
            new = 2 * k - j  # completes group j
            owner, number = (j, None) if i <= j else (new, new)
            _cell(before, columns, layer.writes.sizes[:k], i, j, owner, moved=i > j, text=number)
    for j, row in enumerate(layer.sources, start=1):
        for i in row:
            own = j > k and i == j
            _cell(after, inputs, layer.writes.sizes, i, j, j, moved=j > k and not own, text="new" if own else None)
    _grid(before, columns, layer.writes.sizes[:k], "in the super-net")
    _grid(after, inputs, layer.writes.sizes, "in the RDN")
    before.set_ylabel("output group")
    figure.suptitle(title, fontsize=11) if title else None
    shown = {
        "kept": Patch(facecolor=GREY, edgecolor="white"),
        "violating → new group": Patch(facecolor=GREY, edgecolor="white", hatch="////"),
    }
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=2)
    return figure


def _cell(ax: Axes, columns, rows, i: int, j: int, owner: int, *, moved: bool, text=None) -> None:
    """The block from input group i to output group j."""
    corner = sum(columns[: i - 1]), sum(rows[: j - 1])
    width, height, colour = columns[i - 1], rows[j - 1], owner_colour(owner)
    hatch = "////" if moved else None
    ax.add_patch(Rectangle(corner, width, height, facecolor=colour, edgecolor="white", linewidth=1.0, hatch=hatch))
    if text is not None:
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.0} if moved else None
        centre = corner[0] + width / 2, corner[1] + height / 2
        ax.text(*centre, text, ha="center", va="center", fontsize=9, color=_on(colour), bbox=box)


def _grid(ax: Axes, columns, rows, title: str) -> None:
    x, y = np.cumsum([0, *columns]), np.cumsum([0, *rows])
    ax.set(xlim=(0, x[-1]), ylim=(y[-1], 0), title=title, xlabel="input group")
    ax.set_xticks((x[:-1] + x[1:]) / 2, range(1, len(columns) + 1))
    ax.set_yticks((y[:-1] + y[1:]) / 2, range(1, len(rows) + 1))
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)


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
    made = {step.name for step in steps[inside[0] : inside[-1] + 1]}
    end = inside[-1] + 1
    while end < len(steps) and steps[end].function is not None and made & set(steps[end].inputs):
        made.add(steps[end].name)
        end += 1
    entry = steps[inside[0]].inputs[0]
    rows, row_of = [_Row(spaces[entry], ["input"])], {entry: 0}
    for step in steps[inside[0] : end]:
        layer = None if step.function is not None else rdn.trunk.layers[step.name]
        for name in step.inputs:
            if name not in row_of:  # a value from further up
                rows.append(_Row(spaces[name], ["from before"]))
                row_of[name] = len(rows) - 1
        parents = [row_of[name] for name in step.inputs]
        joins = isinstance(step.function, Call) and len(parents) > 1
        if joins or (hasattr(layer, "weight") and kind(layer) != "norm"):
            label = ("+" if step.function.adds else "×") if joins else kind(layer)
            rows.append(_Row(spaces[step.name], [label], step, parents))
            row_of[step.name] = len(rows) - 1
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
                _connect(ax, rdn, row, rows[parent].space, spans[parent], span, index)
            else:
                _bypass(ax, (spans[parent][-1][1], parent + 0.04), (span[-1][1], index - 0.04), lanes)
                lanes += 1
    ax.set(xlim=(-0.62, 1.08 + 0.05 * lanes), ylim=(len(rows) - 0.75, -0.25))
    ax.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=11)
    shown = {
        "reads": Line2D([], [], color=GREY),
        "takes over a violating connection": Line2D([], [], color=GREY, linestyle=(0, (3, 1.5))),
    }
    if lanes:
        shown["shortcut"] = Line2D([], [], color=INK, linewidth=1.2)
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=3, fontsize=9, columnspacing=1.0)
    return figure


HALF = 0.14  # half the height of a row of cells


def _spans(space: Space, k: int, widest: int) -> list[tuple[float, float]]:
    """Left end and right end of each group's cell, the row centred in [0, 1]; a plain space in the k parts that are read."""
    sizes = split_channels(space.channels, k) if space.plain else space.sizes
    ends = np.cumsum([0, *sizes]) / widest + (1 - sum(sizes) / widest) / 2
    return list(pairwise(ends))


def _draw_row(ax: Axes, row: _Row, span: list[tuple[float, float]], y: int, k: int) -> None:
    for group, (left, right) in enumerate(span, start=1):
        colour = GREY if row.space.plain else owner_colour(group)
        style = {"facecolor": colour, "edgecolor": "white", "linewidth": 0.8, "zorder": 3}
        if row.space.plain:
            style |= {"facecolor": "none", "edgecolor": INK}
        ax.add_patch(Rectangle((left, y - HALF), right - left, 2 * HALF, **style))
        if right - left > 0.045 and not row.space.plain:
            middle = ((left + right) / 2, y)
            ax.text(*middle, group, ha="center", va="center_baseline", fontsize=8, color=_on(colour), zorder=4)
    original, new = sum(row.space.sizes[:k]), sum(row.space.sizes[k:])
    channels = f"{original} plain" if row.space.plain else f"{original} + {new}"
    ax.text(-0.06, y - 0.02, " · ".join(row.labels), ha="right", va="bottom", fontsize=9)
    ax.text(-0.06, y + 0.02, f"{channels} channels", ha="right", va="top", fontsize=8)


def _connect(ax: Axes, rdn: RDN, row: _Row, reads: Space, upper, lower, index: int) -> None:
    """Lines from the groups of the row above to those that read them."""
    layer = rdn.trunk.layers[row.step.name] if row.step.function is None else None
    nested = isinstance(layer, NestedConv2d)
    sources = layer.sources if nested else [(group,) for group in range(1, len(lower) + 1)]
    for j, read in enumerate(sources, start=1):
        for i in read:
            moved = nested and j > rdn.k and i != j
            x = [sum(upper[i - 1]) / 2, sum(lower[j - 1]) / 2]
            style = {"linestyle": (0, (3, 1.5)) if moved else "-", "linewidth": 1.1 if moved else 1.3}
            colour = GREY if row.space.plain else owner_colour(j)
            ax.plot(x, [index - 1 + HALF, index - HALF], color=colour, zorder=2, **style)


def _bypass(ax: Axes, start: tuple[float, float], end: tuple[float, float], lane: int) -> None:
    """A connection that passes other rows, around them on the right; every one has a lane of its own."""
    right = 1.05 + 0.05 * lane
    ax.plot([start[0], right, right, end[0] + 0.02], [start[1], start[1], end[1], end[1]], color=INK, linewidth=1.2)
    ax.plot(end[0] + 0.015, end[1], color=INK, marker="<", markersize=5)


MOST_UNITS = 9  # drawn of one layer; more are hinted at by dots


@styled
def policy_network(policy: PolicyNetwork) -> Figure:
    """A policy network (Figure 7): N_1's features on the left, one probability for each sub-network on the right."""
    sizes = [policy.config()["in_features"], *policy.config()["hidden"], policy.config()["num_subnetworks"]]
    figure, ax = plt.subplots(figsize=(5.6, 3.2))
    places = [_unit_places(size) for size in sizes]
    for column, (left, right) in enumerate(pairwise(places)):
        for y in left:
            for other in right:
                ax.plot([column, column + 1], [y, other], color=GREY, linewidth=0.3, zorder=1)
    last = len(sizes) - 1
    for column, (size, place) in enumerate(zip(sizes, places, strict=True)):
        colours = [owner_colour(v) for v in range(1, size + 1)] if column == last else GREY
        ax.scatter([column] * len(place), place, s=70, c=colours, edgecolors=INK, linewidths=0.6, zorder=2)
        if len(place) < size:
            ax.text(column, 0, "⋮", ha="center", va="center", zorder=3)
        role = "features of $N_1$" if column == 0 else "probabilities" if column == last else "hidden, ReLU"
        ax.text(column, -1.22, f"{size} {role}", ha="center", va="top")
    for v, y in enumerate(places[-1], start=1):
        ax.text(last + 0.08, y, f"$p_{{{v}}}$: is $N_{{{v}}}$ right?", ha="left", va="center")
    ax.set(xlim=(-0.5, last + 0.75), ylim=(-1.45, 1.1))
    ax.axis("off")
    return figure


def _unit_places(size: int) -> np.ndarray:
    """Heights of a layer's units, from the top; of a large layer the first and last few, with a gap for the dots."""
    places = np.linspace(1, -1, max(2, min(size, MOST_UNITS)))[: max(1, size)]
    return places if size <= MOST_UNITS else np.delete(places, MOST_UNITS // 2)

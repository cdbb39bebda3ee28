"""Figures that several chapters draw: parts of a plot that are given its axes, and accuracy against computation (Figure 8)."""

import itertools
import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from rdnlib.errors import ConfigError
from rdnlib.reproduction.book import style
from rdnlib.reproduction.book.style import CYCLE, INK, MARKERS, STAR, legend_below, styled

SERIES = {  # as named by tradeoff.figure8
    "sub-networks": {"color": INK, "marker": "o", "linestyle": "--", "linewidth": 1},
    "dynamic": {"color": style.VERMILLION, "linewidth": 2.2},
    "sequential": {"color": style.GREEN},
    "confidence cascade": {"color": style.ORANGE, "linestyle": "-."},
    "base networks": {"color": style.BLUE, **STAR},
    "random mix of N_1 and N_K": {"color": INK, "linestyle": ":", "linewidth": 1},
    "oracle (first correct exit)": {"color": style.PURPLE, "marker": "^", "markersize": 8, "linestyle": "none"},
}
CURVES = ("dynamic", "sequential", "confidence cascade")
CALIBRATED = ", calibrated"  # points of a curve, in its colour


def curves(ax: Axes, series: Mapping[str, tuple], *, colors: Sequence[str] = CYCLE, **options) -> None:
    """Draw each series in a colour and with a marker of its own, with its intervals where there are any.

    series: name in the legend → (x, y), or (x, y, low, high) with the ends of the intervals. options: of all lines.
    """
    for index, (name, (x, y, *ends)) in enumerate(series.items()):
        look = {"color": colors[index % len(colors)], "marker": MARKERS[index % len(MARKERS)], **options}
        (ax.errorbar if ends else ax.plot)(x, y, *([_reach(y, *ends)] if ends else []), label=name, **look)


def matrix(ax: Axes, values: np.ndarray, texts: np.ndarray | None = None, *, cmap: str = "cividis_r"):
    """Draw values in [0, 1] as colours, row 1 on top, with a text in every cell; NaN has no colour. Returns the colours."""
    rows, columns = values.shape
    ends = np.arange(columns + 1) + 0.5, np.arange(rows + 1) + 0.5
    shown = ax.pcolormesh(*ends, values, cmap=cmap, vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for (row, column), text in np.ndenumerate(np.empty((0, 0)) if texts is None else texts):
        value = values[row, column]
        colour = INK if np.isnan(value) else "white" if value > 0.5 else "black"
        ax.text(column + 1, row + 1, text, ha="center", va="center", fontsize=10.5, color=colour)
    ax.set(xticks=range(1, columns + 1), yticks=range(1, rows + 1))
    ax.invert_yaxis()
    ax.grid(False)
    return shown


def stacked_bars(
    ax: Axes, places: Sequence[float], parts: Mapping[str, Sequence[float]], *, colors: Sequence[str] = CYCLE,
    width: float = 0.8, texts: Sequence[str] | str | None = None, horizontal: bool = False,
) -> None:  # fmt: skip
    """Draw bars whose parts add up: name of the part → its size in each bar.

    texts: what stands at the end of each bar, or a format for its total, such as "{:.2f}".
    """
    total = np.zeros(len(places))
    for (name, part), colour in zip(parts.items(), colors, strict=False):
        bars = (ax.barh if horizontal else ax.bar)(places, part, width, total, color=colour, label=name)
        total = total + np.asarray(part)
    if texts is not None:
        texts = [texts.format(number) for number in total] if isinstance(texts, str) else texts
        ax.bar_label(bars, texts, padding=3)


def name_subnetworks(axis, count: int) -> None:
    """Ticks $N_1$ … $N_K$ on an x-axis or y-axis (`ax.xaxis`, `ax.yaxis`)."""
    axis.set_ticks(range(1, count + 1), [f"$N_{{{i}}}$" for i in range(1, count + 1)])


def image_rows(rows: Mapping[str, Sequence[np.ndarray]], *, columns: int = 8) -> Figure:
    """Images (H, W, 3) in rows, each with its name on the left; at most `columns` of each."""
    bare, size = {"frame_on": False, "xticks": [], "yticks": []}, (5.6, 0.72 * len(rows))
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False, subplot_kw=bare)
    for places, (name, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(places, images, strict=False):
            ax.imshow(image, interpolation="none")
        places[0].text(-0.25, 0.5, name, ha="right", va="center", transform=places[0].transAxes)
    return figure


def text_box(
    ax: Axes, corner: tuple, size: tuple, colour: str, text=None, *, fontsize=10.5, hatched=False, **edge
) -> None:
    """A rectangle from its upper left corner on, with a text that can be read on its colour; `edge`: its other options."""
    edge = {"edgecolor": "white", "linewidth": 0.8, "hatch": "////" if hatched else None, **edge}
    ax.add_patch(Rectangle(corner, *size, facecolor=colour, **edge))
    if text is not None:
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.0} if hatched else None
        middle = np.add(corner, np.divide(size, 2))
        look = {"ha": "center", "va": "center_baseline", "fontsize": fontsize, "color": style.on(colour), "bbox": box}
        ax.text(*middle, text, zorder=4, **look)


@styled
def figure8(frame: pd.DataFrame) -> Figure:
    """Accuracy against computation: the sub-networks alone, base networks and sample-adaptive inference (Figure 8).

    frame: as `tradeoff.figure8` makes it: columns `series`, `name`, `madds` (multiply-adds per image), `top1` (%), `low` and `high`
    (its 95 % interval, NaN where there is none). A series that is not a known one is a star if it has one row, otherwise
    joined points. The axes show where the policies are; a point above or below is named at the edge. Raises ConfigError where a column
    is missing.
    """
    figure, ax = _plane(4.8)
    others = itertools.cycle((style.GREEN, style.ORANGE, style.SKY))
    frame = _having(frame, "series", "name", "madds", "top1", "low", "high")
    for name, rows in frame.groupby("series", sort=False):
        rows = rows.sort_values("madds", kind="stable")
        label = re.sub(r"N_(\w)", r"$N_\1$", name)
        look = SERIES.get(name) or {"color": next(others), **(STAR if len(rows) == 1 else {"marker": "s"})}
        if name.endswith(CALIBRATED):
            look = {"color": SERIES[name.removesuffix(CALIBRATED)]["color"], "marker": "D", "linestyle": "none"}
            label = None
        if name == "dynamic":  # one band is enough to show how wide they are
            ax.fill_between(rows["madds"] / 1e6, rows["low"], rows["high"], color=look["color"], alpha=0.15, lw=0)
        x, y, without = rows["madds"] / 1e6, rows["top1"], name in CURVES or rows["low"].isna().all()
        ax.errorbar(x, y, None if without else _reach(y, rows["low"], rows["high"]), label=label, **look)
    if frame["series"].str.endswith(CALIBRATED).any():  # one entry for all of them
        ax.plot([], [], color=INK, marker="D", linestyle="none", label="chosen on held-out images")
    _zoom(ax, frame)
    legend_below(figure)
    return figure


def _zoom(ax: Axes, frame: pd.DataFrame) -> None:
    """Limit y to what is compared from the cost of N_2 on, name the sub-networks, and what lies above or below the limits."""
    static = frame[frame["series"] == "sub-networks"].sort_values("madds")
    compared = frame["series"].str.removesuffix(CALIBRATED).isin([*CURVES, "sub-networks", "base networks"])
    rows = frame[compared & (frame["madds"] >= static["madds"].iloc[:2].max())]
    low, high = rows["low"].fillna(rows["top1"]).min(), rows["high"].fillna(rows["top1"]).max()
    margin = max(0.06 * (high - low), 0.5)
    low, high = low - margin, high + margin
    ax.set_ylim(low, high)
    for row in frame[frame["series"].str.startswith(("sub-networks", "oracle"))].itertuples():
        name = re.sub(r"N_(\w+)", r"$N_{\1}$", row.name or "oracle")
        if low <= row.top1 <= high:
            below = -14 if row.name else 6
            ax.annotate(name, (row.madds / 1e6, row.top1), xytext=(5, below), textcoords="offset points")
            continue
        edge, inside = (high, -26) if row.top1 > high else (low, 20)
        arrow = {"arrowstyle": "-|>", "color": INK}
        text, look = f"{name}: {row.top1:.1f} %", {"textcoords": "offset points", "arrowprops": arrow}
        ax.annotate(text, (row.madds / 1e6, edge), xytext=(12, inside), ha="left", **look)


@styled
def subnetwork_curve(tables: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy of N_1 … N_K against their MAdds, one line per table, with 95 % intervals.

    tables: name → a table as `outcomes.subnetwork_table` makes it: columns `subnetwork` (1 … K), `madds`, `top1`, `top1_low`,
    `top1_high` (%). A table of one row, a base network, is drawn as a star.
    """
    figure, ax = _plane(4.0)
    for index, (name, table) in enumerate(tables.items()):
        table = _having(table, "subnetwork", "madds", "top1", "top1_low", "top1_high")
        look = {"color": CYCLE[index % len(CYCLE)], "marker": MARKERS[index % len(MARKERS)]}
        series = table["madds"] / 1e6, table["top1"], table["top1_low"], table["top1_high"]
        curves(ax, {name: series}, **look | (STAR if len(table) == 1 else {}))
        for row in table.itertuples() if len(table) > 1 and not ax.texts else ():  # the first curve names its points
            where, text = (row.madds / 1e6, row.top1), f"$N_{{{row.subnetwork}}}$"
            ax.annotate(text, where, xytext=(6, -14), textcoords="offset points")
    legend_below(figure)
    return figure


@styled
def training_curves(histories: dict[str, pd.DataFrame], *, colors: Sequence[str]) -> Figure:
    """Accuracy and loss over the epochs of training. The networks after the first one were made from it and go on.

    histories: name → columns epoch, loss (of all sub-networks) and accuracy, or accuracy_1 and accuracy_K, in [0, 1].
    """
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(5.6, 5.4), sharex=True)
    start, heads = 0, {"accuracy": "", "accuracy_1": ", $N_1$", "accuracy_K": ", $N_K$"}
    for (name, history), colour in zip(histories.items(), colors, strict=True):
        epoch, look = history["epoch"] + start, {"color": colour, "marker": "o", "markersize": 3}
        for column in [column for column in heads if column in history]:
            line = "--" if column == "accuracy_1" else "-"
            top.plot(epoch, 100 * history[column], linestyle=line, label=name + heads[column], **look)
        bottom.plot(epoch, history["loss"], **look)
        start = start or len(history)
    for ax, label in ((top, "training accuracy (%)"), (bottom, "loss")):
        ax.axvline(start + 0.5, **style.DOTTED)
        ax.set(ylabel=label)
    bottom.set(xlabel="epoch (dotted: the surgery)")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure)
    return figure


def _reach(values, low, high) -> np.ndarray:
    """How far an interval reaches below and above each value, (2, N); 0 where there is none."""
    return np.maximum(np.nan_to_num([np.subtract(values, low), np.subtract(high, values)]), 0)


def _plane(height: float) -> tuple[Figure, Axes]:
    """Axes of accuracy against computation."""
    figure, ax = plt.subplots(figsize=(5.6, height))
    ax.set(xlabel="MAdds per image (millions)", ylabel="top-1 accuracy (%)")
    return figure, ax


def _having(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    if missing := [column for column in columns if column not in frame]:
        raise ConfigError(f"the table to plot lacks the columns {', '.join(missing)}")
    return frame

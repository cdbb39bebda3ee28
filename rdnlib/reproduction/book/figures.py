"""Figures of the book, in one style: Okabe–Ito colours, labelled axes, SVG that is identical from run to run.

`show` puts a figure into a page as inline SVG whose text and axes take the colour of the page, so that it reads equally
well in light and dark mode; `save` writes a stand-alone file on white. Figures 3 and 8 of the paper are drawn here.
"""

import functools
import hashlib
import html
import io
import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from rdnlib.errors import ConfigError
from rdnlib.utils.files import replacing

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, ORANGE, YELLOW = "#56B4E9", "#E69F00", "#F0E442"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE)  # Okabe–Ito, strongest on both backgrounds first
MARKERS = "osD^vP"
STAR = {"marker": "*", "markersize": 11, "linestyle": "none"}  # one network alone
INK = "#24292f"  # text, axes and grid; `show` turns exactly this colour into the page's own

STYLE = {
    "figure.figsize": (5.6, 3.5),  # about 540 px: still legible when a phone shrinks it to 360 px
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "legend.fontsize": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "errorbar.capsize": 2.5,
    "hatch.linewidth": 1.2,
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and selected
    "svg.hashsalt": "rdn",
}


def styled(draw: Callable) -> Callable:
    """Run a drawing function in our style without touching the user's own matplotlib settings."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        with plt.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


@styled
def figure(*args, **kwargs) -> tuple[Figure, Axes]:
    """`plt.subplots` in our style, for a notebook's own plots."""
    return plt.subplots(*args, **kwargs)


def svg(figure: Figure) -> str:
    """The figure as SVG text; the same figure always gives the same text."""
    buffer = io.StringIO()
    with plt.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def show(figure: Figure, *, alt: str) -> HTML:
    """Close the figure and return it for display; `alt` says in words what it shows."""
    plt.close(figure)
    text = svg(figure)
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    width = float(re.search(r'width="([\d.]+)pt"', text)[1]) * 4 / 3
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    # ids are unique within a figure only: prefix them, so that two figures of a page cannot mix up their clip paths
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    label = html.escape(alt, quote=True)
    style = f"width:100%;max-width:{width:.0f}px;height:auto;color:inherit"
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}" style="{style}"', 1)
    return HTML(f'<div class="rdn-figure">{text}</div>')


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write the figure as a file that stands alone, on white, atomically; the format follows the suffix."""
    suffix = Path(path).suffix.lstrip(".")
    metadata = {"Date": None, "Creator": None} if suffix == "svg" else None
    with replacing(path) as temporary, plt.rc_context(STYLE):
        figure.savefig(temporary, format=suffix, facecolor="white", metadata=metadata, dpi=150)


@styled
def figure8(frame: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Accuracy against computation: the sub-networks alone, base networks and sample-adaptive inference (Figure 8).

    Args:
        frame: as `tradeoff.figure8` makes it: columns `series`, `madds` (multiply-adds per image), `top1` (%), `low` and
            `high` (its 95 % interval, NaN where there is none). A series that is not one of the known ones is a star
            if it has one row, otherwise joined points.
        ax: where to draw; by default on a new figure.
    """
    _require(frame, "series", "madds", "top1", "low", "high")
    ax = plt.subplots(figsize=(5.6, 4.4))[1] if ax is None else ax
    others = itertools.cycle((GREEN, ORANGE, SKY))
    legend = {}
    for name, rows in frame.groupby("series", sort=False):
        rows = rows.sort_values("madds", kind="stable")
        label = re.sub(r"N_(\w)", r"$N_\1$", name)
        style = SERIES.get(name) or {"color": next(others), **(STAR if len(rows) == 1 else {"marker": "s"})}
        if name.endswith(CALIBRATED):  # no entry of their own: the legend would be twice as long
            style = {"color": SERIES[name.removesuffix(CALIBRATED)]["color"], "marker": "D", "linestyle": "none"}
            legend["calibrated (colour of its curve)"] = _points(ax, rows, **style)
        elif name in CURVES:
            (legend[label],) = ax.plot(rows["madds"] / 1e6, rows["top1"], **style)
            if name == "dynamic":  # one band is enough to show how wide they are
                ax.fill_between(rows["madds"] / 1e6, rows["low"], rows["high"], color=style["color"], alpha=0.15, lw=0)
        else:
            legend[label] = _points(ax, rows, **style)
    ax.set(xlabel="MAdds per image (millions)", ylabel="top-1 accuracy (%)")
    _legend_below(ax, legend.values(), legend.keys())
    return ax.figure


SERIES = {  # as named by tradeoff.figure8
    "sub-networks": {"color": BLUE, "marker": "o", "linestyle": "--"},
    "dynamic": {"color": VERMILLION},
    "sequential": {"color": GREEN},
    "confidence cascade": {"color": ORANGE, "linestyle": "-."},
    "base networks": {"color": SKY, "marker": "*", "markersize": 11, "linestyle": "none"},
    "random mix of N_1 and N_K": {"color": INK, "linestyle": ":", "linewidth": 1},
    "oracle (first correct exit)": {"color": PURPLE, "marker": "^", "markersize": 8, "linestyle": "none"},
}
CURVES = ("dynamic", "sequential", "confidence cascade")
CALIBRATED = ", calibrated"  # points of a curve, in its colour


@styled
def subnetwork_curve(tables: dict[str, pd.DataFrame], ax: Axes | None = None) -> Figure:
    """Accuracy of N_1 … N_K against their MAdds, one line per table, with 95 % intervals.

    Args:
        tables: name → a table as `results.subnetwork_table` makes it: columns `subnetwork` (1 … K), `madds`, `top1`,
            `top1_low`, `top1_high` (%). A table of one row, a base network, is drawn as a star.
        ax: where to draw; by default on a new figure.
    """
    ax = plt.subplots(figsize=(5.6, 4.0))[1] if ax is None else ax
    legend, labelled = {}, False
    for index, (name, table) in enumerate(tables.items()):
        _require(table, "subnetwork", "madds", "top1", "top1_low", "top1_high")
        rows = table.rename(columns={"top1_low": "low", "top1_high": "high"})
        style = STAR if len(rows) == 1 else {"marker": MARKERS[index % len(MARKERS)]}
        legend[name] = _points(ax, rows, color=CYCLE[index % len(CYCLE)], **style)
        if len(rows) > 1 and not labelled:
            labelled = True
            for row in rows.itertuples():
                where, text = (row.madds / 1e6, row.top1), f"$N_{{{row.subnetwork}}}$"
                ax.annotate(text, where, xytext=(6, -14), textcoords="offset points")
    ax.set(xlabel="MAdds per image (millions)", ylabel="top-1 accuracy (%)")
    _legend_below(ax, legend.values(), legend.keys())
    return ax.figure


@styled
def block_structure(
    sources: Sequence[Sequence[int]],
    *,
    k: int,
    inputs: Sequence[int],
    outputs: Sequence[int],
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Which input group feeds which output group of a nested convolution (Figure 3).

    Args:
        sources: for each output group 1…K, the input groups (counted from 1) that it reads.
        k: number of original groups; the rest are the new ones that take over the violating connections.
        inputs, outputs: channels of each input and output group: the widths of the columns, the heights of the rows.
    """
    if len(sources) != len(outputs) or any(not 1 <= i <= len(inputs) for row in sources for i in row):
        raise ConfigError("sources need one row per output group, with input groups counted from 1")
    ax = plt.subplots(figsize=(5.6, 5.0))[1] if ax is None else ax
    x, y = np.concatenate([[0], np.cumsum(inputs)]), np.concatenate([[0], np.cumsum(outputs)])
    for j, row in enumerate(sources, start=1):
        for i in range(1, len(inputs) + 1):
            corner, width, height = (x[i - 1], y[j - 1]), inputs[i - 1], outputs[j - 1]
            if i in row:
                kind = "kept" if j <= k else "moved" if i <= k else "new"
                ax.add_patch(Rectangle(corner, width, height, **_BLOCKS[kind]))
            elif j < i <= k:
                ax.add_patch(Rectangle(corner, width, height, **_BLOCKS["removed"]))
    ax.set(xlim=(-0.01 * x[-1], 1.01 * x[-1]), ylim=(1.01 * y[-1], -0.01 * y[-1]), aspect="auto", title=title)
    ax.set_xticks((x[:-1] + x[1:]) / 2, [str(i) for i in range(1, len(inputs) + 1)])
    ax.set_yticks((y[:-1] + y[1:]) / 2, [str(j) for j in range(1, len(outputs) + 1)])
    ax.set(xlabel="input group (width ∝ channels)", ylabel="output group (height ∝ channels)")
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)
    _legend_below(ax, [Patch(**_BLOCKS[kind]) for kind in _BLOCK_LABELS], _BLOCK_LABELS.values())
    return ax.figure


_BLOCKS = {
    "kept": {"facecolor": BLUE, "edgecolor": "white", "linewidth": 1.0},
    "removed": {
        "facecolor": "none",
        "edgecolor": VERMILLION,
        "hatch": "///",
        "linewidth": 0.8,
        "linestyle": "--",
    },
    "moved": {"facecolor": VERMILLION, "edgecolor": "white", "linewidth": 1.0},
    "new": {"facecolor": GREEN, "edgecolor": "white", "linewidth": 1.0},
}
_BLOCK_LABELS = {
    "kept": "kept",
    "removed": "violates nesting: removed",
    "moved": "moved to a new group",
    "new": "new group’s own input",
}


@styled
def exit_difficulty(difficulty: np.ndarray, exits: np.ndarray, *, count: int, ax: Axes | None = None) -> Figure:
    """Mean difficulty of the images that leave at each exit, with its 95 % interval and their share of all images.

    Args:
        difficulty: (N,) known difficulty of each image in [0, 1].
        exits: (N,) the sub-network, 1…count, that each image left at.
        count: K, the number of sub-networks.
    """
    difficulty, exits = np.asarray(difficulty, float), np.asarray(exits, int)
    if difficulty.shape != exits.shape or np.isnan(difficulty).any():
        raise ConfigError("exit_difficulty needs one known difficulty and one exit per image")
    ax = plt.subplots()[1] if ax is None else ax
    n = np.bincount(exits, minlength=count + 1)[1:]
    mean = np.bincount(exits, difficulty, minlength=count + 1)[1:] / np.maximum(n, 1)
    square = np.bincount(exits, difficulty**2, minlength=count + 1)[1:] / np.maximum(n, 1)
    error = 1.96 * np.sqrt(np.maximum(square - mean**2, 0) / np.maximum(n - 1, 1))  # normal approximation
    used = n > 0
    place = np.arange(1, count + 1)
    ax.errorbar(place[used], mean[used], error[used], color=BLUE, marker="o", linestyle="none")
    for exit_, middle, upper, number in zip(place, mean, mean + error, n, strict=True):
        if number:
            text = f"{100 * number / n.sum():.0f} %"
            ax.annotate(text, (exit_, max(middle, upper)), xytext=(0, 5), textcoords="offset points", ha="center")
    ax.axhline(difficulty.mean(), color=INK, linewidth=1, linestyle=":", label="mean over all images")
    ax.set(xlim=(0.5, count + 0.5), xticks=place, xticklabels=[f"$N_{{{i}}}$" for i in place])
    ax.margins(y=0.15)
    ax.set(xlabel="exit taken (share of the images above it)", ylabel="mean difficulty (0 easy – 1 hard)")
    ax.legend(loc="best")
    return ax.figure


def _points(ax: Axes, rows: pd.DataFrame, **style):
    """Draw points with their intervals and return what the legend shows for them."""
    error = None
    if rows["low"].notna().any():
        error = np.maximum(np.nan_to_num([rows["top1"] - rows["low"], rows["high"] - rows["top1"]]), 0)
    return ax.errorbar(rows["madds"] / 1e6, rows["top1"], error, **style)


def _legend_below(ax: Axes, handles, labels) -> None:
    ax.figure.legend(list(handles), list(labels), loc="outside lower center", ncols=2)


def _require(frame: pd.DataFrame, *columns: str) -> None:
    if missing := [column for column in columns if column not in frame]:
        raise ConfigError(f"the table to plot lacks the columns {', '.join(missing)}")
